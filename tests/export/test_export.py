# SPDX-License-Identifier: Apache-2.0
"""What leaves the package: the same numbers in TorchScript and ONNX, and a folder for the Hub that runs no code."""

import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import load_net_with_metadata
from torch import nn

from scripts.bundle_files import CONFIGS, program_config
from scripts.cli.training.find_model import prediction_configs
from scripts.config_text import find_config_text
from scripts.errors import DataError
from scripts.export import MeanOfSubnets, describe_model, read_hub, write_exports, write_hub
from scripts.export.exact_norms import ExactNorm, with_exact_norms
from scripts.export.hub import _problems as hub_problems
from scripts.inference import RunsEnsemble, WeightsLoader, load_weights, read_weights
from scripts.networks import DualEnsemble, ResNetVNet, VNet

DESCRIPTION = {
    "labels": {"0": "background", "1": "heart"},
    "in_channels": 1,
    "spacing": [1, 1, 2.5],
    "patch_size": [32, 32, 16],
    "overlap": 0.5,
    "intensity": {"_target_": "NormalizeIntensityd", "keys": "image"},
    "network_def": {
        "_target_": "scripts.networks.DualEnsemble",
        "a": {"_target_": "scripts.networks.VNet", "base_channels": 2, "norm": "group"},
        "b": {"_target_": "scripts.networks.VNet", "base_channels": 2, "norm": "group", "stem_stride": 2},
    },
}


def ensemble(seed=0):
    torch.manual_seed(seed)
    return DualEnsemble(VNet(base_channels=2, norm="group"), VNet(base_channels=2, norm="group", stem_stride=2)).eval()


def probabilities(network, x):
    """The mean of all softmaxes, in float64 by NumPy."""
    subnets = [s for one in getattr(network, "networks", [network]) for s in (one.a, one.b)]
    logits = [subnet(x).detach().double().numpy() for subnet in subnets]
    powers = [np.exp(one - one.max(1, keepdims=True)) for one in logits]
    return np.mean([one / one.sum(1, keepdims=True) for one in powers], axis=0)


@pytest.mark.parametrize(("data", "classes"), [([], 2), (["datasets/hippocampus"], 3), (["datasets/acdc"], 4)])
def test_a_model_is_described_without_code(data, classes):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in ("inference", *data, "export")])
    found = parser.get_parsed_content("description")
    assert find_config_text(found) is None and json.loads(json.dumps(found)) == found
    assert found["network_def"]["a"]["out_channels"] == len(found["labels"]) == classes
    assert found.get("field_of_view") == (384.0 if "datasets/acdc" in data else None)
    assert found.get("center_crop") == ([256.0, 256.0, 0] if "datasets/acdc" in data else None)
    assert list(hub_problems(found)) == []
    made, expected = (one.get_parsed_content("network_def") for one in (ConfigParser(found), parser))
    shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in (made, expected)]
    assert shapes[0] == shapes[1]


def test_what_has_no_words_without_code_is_named():
    parser = ConfigParser({**DESCRIPTION, "overlap": "$lambda: 1", "description": "$@call()", "call": describe_model})
    with pytest.raises(RuntimeError) as failed:
        parser.get_parsed_content("description")
    assert "overlap: a function, which cannot be written without code" in str(failed.value.__cause__)


@pytest.mark.parametrize("runs", [1, 2])
def test_one_module_is_the_mean_of_all_subnets(runs):
    network = ensemble() if runs == 1 else RunsEnsemble([ensemble(0), ensemble(1)])
    whole = MeanOfSubnets([network] if runs == 1 else network.networks).eval()
    x = torch.randn(1, 1, 32, 32, 32)
    assert whole.size_multiple == 32
    with torch.no_grad():
        assert np.allclose(whole(x).exp().numpy(), probabilities(network, x), atol=1e-6)


def test_torchscript_gives_the_same_and_says_what_to_feed_it(tmp_path):
    network = ensemble()
    [path] = write_exports(network, DESCRIPTION, tmp_path, ["torchscript"])
    loaded, meta, _ = load_net_with_metadata(str(path))
    for size in ((1, 1, 32, 32, 32), (2, 1, 32, 64, 32)):
        x = torch.randn(size)
        with torch.no_grad():
            assert np.allclose(loaded(x).exp().numpy(), probabilities(network, x), atol=1e-5)
    assert meta["labels"] == {"0": "background", "1": "heart"} and meta["size_multiple"] == 32


@pytest.mark.slow
def test_onnx_gives_the_same_at_any_batch_and_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = DualEnsemble(
        ResNetVNet(base_channels=2, norm="group", stem_stride=2), VNet(base_channels=2, norm="group", stem_stride=2)
    ).eval()
    [path] = write_exports(network, DESCRIPTION, tmp_path, ["onnx"])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for size in ((1, 1, 32, 32, 32), (2, 1, 32, 64, 96)):
        x = torch.randn(size)
        [found] = session.run(None, {"image": x.numpy()})
        with torch.no_grad():
            assert np.abs(found - network(x).numpy()).max() < 1e-4
            assert np.allclose(np.exp(found), probabilities(network, x), atol=1e-5)
    meta = json.loads(session.get_modelmeta().custom_metadata_map["description"])
    assert meta["spacing"] == [1, 1, 2.5] and meta["output"] == "log_probabilities"


@pytest.mark.slow
def test_onnx_of_the_shipped_model_gives_the_same_on_real_scans_of_two_sizes(tmp_path, shared_data):
    onnxruntime = pytest.importorskip("onnxruntime")
    configs, [weights] = prediction_configs(["hippocampus"])
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    parser["preprocessing#transforms"].append({"_target_": "DivisiblePadd", "keys": "image", "k": 16})
    network, prepare = parser.get_parsed_content("network_def"), parser.get_parsed_content("preprocessing")
    load_weights(network, weights)
    network.eval()
    description = {**DESCRIPTION, "patch_size": parser.get_parsed_content("patch_size")}
    [path] = write_exports(network, description, tmp_path, ["onnx"])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sizes = {}
    for file in sorted((shared_data / "hippocampus" / "images").glob("*.nii.gz"))[:20]:
        image = prepare({"image": str(file)})["image"].as_tensor()[None]
        sizes.setdefault(tuple(image.shape), image)
    assert len(sizes) >= 2
    for image in list(sizes.values())[:2]:
        [found] = session.run(None, {"image": image.numpy()})
        with torch.no_grad():
            expected = network(image).numpy()
        assert np.abs(found - expected).max() < 1e-4
        assert (found.argmax(1) == expected.argmax(1)).all() and len(np.unique(found.argmax(1))) == 3


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["group", "instance", "plain instance", "batch"])
def test_norms_are_the_same_numbers_with_exact_means(norm, dims):
    torch.manual_seed(0)
    kinds = {"batch": (nn.BatchNorm2d, nn.BatchNorm3d)}.get(norm, (nn.InstanceNorm2d, nn.InstanceNorm3d))
    layer = nn.GroupNorm(2, 6) if norm == "group" else kinds[dims - 2](6, affine="plain" not in norm)
    network = nn.Sequential(nn.Sequential(layer)).eval()
    if layer.weight is not None:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    exact = with_exact_norms(network)
    x = 3 * torch.randn(2, 6, *[8] * dims) + 5
    assert isinstance(exact[0][0], ExactNorm) == (norm != "batch") and network[0][0] is layer
    torch.testing.assert_close(exact(x), network(x), atol=2e-6, rtol=1e-5)


def test_unknown_formats_are_named(tmp_path):
    with pytest.raises(DataError, match="--formats tflite: must be of torchscript, onnx"):
        write_exports(ensemble(), DESCRIPTION, tmp_path, ["tflite"])


def test_a_folder_for_the_hub_is_read_back(tmp_path):
    network, folder = ensemble(), tmp_path / "hub"
    write_hub(network, DESCRIPTION, folder, tmp_path / "no_run")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "Segments heart." in (folder / "README.md").read_text()
    configs, weights = prediction_configs([str(folder)])
    assert configs == [program_config("inference"), folder / "config.json"] and weights == [
        folder / "model.safetensors"
    ]
    parser = ConfigParser(read_hub(folder))
    loaded = parser.get_parsed_content("network_def")
    x = torch.randn(1, 1, 32, 32, 32)
    assert not torch.allclose(loaded.eval()(x), network(x))
    load_weights(loaded, weights[0])
    assert torch.equal(loaded(x), network(x))
    other = ensemble(5)
    loader = WeightsLoader(str(weights[0]), {"model": other})
    loader.logger = type("Log", (), {"info": lambda *_: None})
    loader(None)
    assert torch.equal(other(x), network(x))
    with pytest.raises(DataError, match="exists already"):
        write_hub(network, DESCRIPTION, folder, tmp_path)


def test_a_folder_for_the_hub_says_how_large_slices_count(tmp_path):
    write_hub(ensemble(), {**DESCRIPTION, "field_of_view": 384.0}, tmp_path / "hub", tmp_path)
    assert (
        "resampled to 1 x 1 x 2.5 mm (the longer side of a slice counts as 384 mm), oriented to RAS"
        in (tmp_path / "hub" / "README.md").read_text()
    )
    assert read_hub(tmp_path / "hub")["field_of_view"] == 384.0


def test_a_folder_for_the_hub_says_where_its_model_looks(tmp_path):
    write_hub(ensemble(), {**DESCRIPTION, "center_crop": [256.0, 256.0, 0]}, tmp_path / "hub", tmp_path)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "1 x 1 x 2.5 mm, of which the middle is looked at (256 mm x 256 mm x all), oriented to RAS" in card
    assert read_hub(tmp_path / "hub")["center_crop"] == [256.0, 256.0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intensity": {"_target_": "os.system", "command": "touch hacked"}}, "'os.system' is no network"),
        ({"spacing": "$__import__('os').getpid()"}, "is code"),
        ({"run": ["$print(1)"]}, "'run' is no part of a model's description"),
        ({"overlap": {"_target_": "print"}}, "'print' is no network"),
        ({"labels": {"_target_": "NormalizeIntensityd", "keys": "x"}}, "is no network"),
        ({"intensity": {"_target_": "NormalizeIntensityd", "keys": "image", "_mode_": "debug"}}, "the key '_mode_'"),
        ({"network_def": {"_target_": "scripts.networks.DualEnsemble", "a": {"_target_": "pickle.loads"}}}, "pickle"),
        ({"regions": {"_target_": "NormalizeIntensityd", "keys": "x"}}, "is no network"),
        ({"field_of_view": {"_target_": "NormalizeIntensityd", "keys": "x"}}, "is no network"),
        ({"center_crop": [{"_target_": "NormalizeIntensityd", "keys": "x"}]}, "is no network"),
        ({"network_def": {"_target_": "UNet"}}, "not a scripts.networks.DualEnsemble"),
    ],
)
def test_a_config_that_would_run_code_is_refused(tmp_path, change, message):
    write_hub(ensemble(), DESCRIPTION, tmp_path / "hub", tmp_path)
    (tmp_path / "hub" / "config.json").write_text(json.dumps({**DESCRIPTION, **change}))
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        prediction_configs([str(tmp_path / "hub")])


def test_a_config_that_lacks_something_or_is_none_is_named(tmp_path):
    write_hub(ensemble(), DESCRIPTION, tmp_path / "hub", tmp_path)
    config = tmp_path / "hub" / "config.json"
    for text, message in (
        ("{}", "labels, in_channels"),
        ("[1]", "not a config"),
        ('{"a": 1, "a": 2}', "stands in it twice"),
    ):
        config.write_text(text)
        with pytest.raises(DataError, match=message):
            read_hub(tmp_path / "hub")


def test_damaged_weights_are_named(tmp_path):
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(b"\x00" * 40)
        with pytest.raises(DataError, match=f"{name} is damaged"):
            read_weights(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read|is missing"):
            read_weights(tmp_path / f"none_{name}")
    torch.save(VNet(base_channels=2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(DataError, match="weights of other networks"):
        load_weights(ensemble(), tmp_path / "other.pt")
