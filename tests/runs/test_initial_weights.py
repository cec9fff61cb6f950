# SPDX-License-Identifier: Apache-2.0
"""A training starts from the weights of an earlier one, all of them or none, and never by accident."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from ignite.engine import Engine, Events

from scripts.data import DataError, phantom_dataset
from scripts.networks import MovingAverage
from scripts.runs import InitialWeights, RunState


def make_engine():
    engine = Engine(lambda engine, batch: None)
    engine.state.device, engine.state.rank, engine.scaler = "cpu", 0, None
    return engine


def save(path, classes=3):
    network = torch.nn.Conv3d(1, classes, 1)
    torch.save(network.state_dict(), path)
    return network


def test_network_and_moving_average_start_there(tmp_path, caplog):
    saved, network = save(tmp_path / "model.pt"), torch.nn.Conv3d(1, 3, 1)
    average = MovingAverage(network)
    seen = []
    engine = make_engine()
    InitialWeights(tmp_path / "model.pt", network, average).attach(engine)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: seen.append((network.weight, average.module.weight)))
    with caplog.at_level("INFO"):
        engine.run([0])
    assert all(torch.equal(weight, saved.weight) for weight in seen[0])
    assert f"starts from {tmp_path / 'model.pt'}" in caplog.text


def test_weights_may_be_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    saved, network = torch.nn.Conv3d(1, 3, 1), torch.nn.Conv3d(1, 3, 1)
    safetensors.save_file(saved.state_dict(), tmp_path / "model.safetensors")
    engine = make_engine()
    InitialWeights(tmp_path / "model.safetensors", network).attach(engine)
    engine.run([0])
    assert torch.equal(network.weight, saved.weight)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="model.safetensors is damaged"):
        InitialWeights(tmp_path / "model.safetensors", network)


def test_half_precision_weights_train_in_single_precision(tmp_path):
    network = torch.nn.Conv3d(1, 3, 1)
    half = {name: value.half() for name, value in torch.nn.Conv3d(1, 3, 1).state_dict().items()}
    torch.save(half, tmp_path / "model.pt")
    engine = make_engine()
    InitialWeights(tmp_path / "model.pt", network).attach(engine)
    engine.run([0])
    assert network.weight.dtype is torch.float32 and torch.equal(network.weight, half["weight"].float())


def test_an_interrupted_run_continues_where_it_was(tmp_path):
    save(tmp_path / "model.pt")
    network = torch.nn.Conv3d(1, 3, 1)

    def run(path, epochs, step):
        engine = Engine(step)
        engine.state.device, engine.state.rank, engine.scaler = "cpu", 0, None
        InitialWeights(path, network, output_dir=str(tmp_path / "run")).attach(engine)
        RunState(str(tmp_path / "run"), network, {}).attach(engine)
        engine.run([0], max_epochs=epochs)

    (tmp_path / "run").mkdir()
    with torch.no_grad():
        run(tmp_path / "model.pt", 1, lambda engine, batch: network.weight.fill_(7.0))
        network.weight.fill_(0.0)  # another process, other random weights
        run(tmp_path / "gone" / "model.pt", 2, lambda engine, batch: network.weight.add_(1.0))
    assert torch.equal(network.weight, torch.full_like(network.weight, 8.0))
    record = json.loads((tmp_path / "run" / "initial_weights.json").read_text())
    assert record == {"path": str(tmp_path / "model.pt")}


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    save(tmp_path / "old.pt")
    saved, network = save(tmp_path / "new.pt"), torch.nn.Conv3d(1, 3, 1)
    for name in ("old.pt", "new.pt"):
        engine = make_engine()
        InitialWeights(tmp_path / name, network, output_dir=str(tmp_path)).attach(engine)
        engine.run([0])
    assert torch.equal(network.weight, saved.weight)
    assert json.loads((tmp_path / "initial_weights.json").read_text()) == {"path": str(tmp_path / "new.pt")}


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: torch.nn.Conv3d(1, 4, 1), r"weight is \(3, 1, 1, 1, 1\) there, \(4, 1, 1, 1, 1\) here"),
        (lambda: torch.nn.Conv3d(1, 3, 1, bias=False), "bias is not in this run's"),
    ],
)
def test_weights_of_other_networks_are_refused(tmp_path, build, told):
    save(tmp_path / "model.pt")
    with pytest.raises(DataError, match=told) as refused:
        InitialWeights(tmp_path / "model.pt", build())
    assert str(tmp_path / "model.pt") in str(refused.value) and "base_channels" in str(refused.value)


class Encoder(torch.nn.Module):
    """Named as MONAI's ResNet and Med3D name theirs."""

    def __init__(self, channels=1, width=4):
        super().__init__()
        self.conv1 = torch.nn.Conv3d(channels, width, 3)
        self.bn1 = torch.nn.BatchNorm3d(width)
        self.layer1 = torch.nn.Sequential(torch.nn.Conv3d(width, width, 3), torch.nn.Conv3d(width, width, 3))


def pair(**options):
    """Two networks, of which one has the encoder somewhere inside."""
    a = torch.nn.ModuleDict(
        {"net": torch.nn.ModuleDict({"encoder": Encoder(**options), "head": torch.nn.Conv3d(4, 2, 1)})}
    )
    return torch.nn.ModuleDict({"a": a, "b": torch.nn.Conv3d(1, 2, 5)})


@pytest.mark.parametrize(
    ("prefix", "nest"),
    [
        ("", lambda weights: weights),
        ("module.", lambda weights: {"epoch": 3, "state_dict": weights}),
        ("encoder.backbone.", lambda weights: {"network_weights": weights}),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_an_encoder_of_another_program_is_found_by_names_and_shapes(tmp_path, prefix, nest, zipped, caplog):
    theirs, network = Encoder(), pair()
    weights = {prefix + name: value for name, value in theirs.state_dict().items()} | {
        "decoder.up.weight": torch.ones(9)
    }
    torch.save(nest(weights), tmp_path / "theirs.pth", _use_new_zipfile_serialization=zipped)
    average = MovingAverage(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    engine = make_engine()
    with caplog.at_level("INFO"):
        InitialWeights(tmp_path / "theirs.pth", network, average, output_dir=str(tmp_path)).attach(engine)
        engine.run([0])
    inside = "a.net.encoder."
    expected = before | {inside + name: value for name, value in theirs.state_dict().items()}
    for one in (network, average.module):
        assert all(torch.equal(value, expected[name]) for name, value in one.state_dict().items())
    record = json.loads((tmp_path / "initial_weights.json").read_text())
    assert record["matched"] == [f"{inside}{name} from {prefix}{name}" for name in theirs.state_dict()]
    assert record["not_used"] == ["decoder.up.weight"]
    assert record["not_in_it"] == [name for name in before if not name.startswith(inside)]
    assert f"{len(record['matched'])} tensors matched" in caplog.text and "1 tensors not used" in caplog.text


def test_what_has_another_shape_stays_random_and_is_told(tmp_path):
    torch.save(Encoder(channels=3).state_dict(), tmp_path / "theirs.pth")
    network = pair()
    before = network["a"]["net"]["encoder"].conv1.weight.clone()
    engine = make_engine()
    InitialWeights(tmp_path / "theirs.pth", network, output_dir=str(tmp_path)).attach(engine)
    engine.run([0])
    assert torch.equal(network["a"]["net"]["encoder"].conv1.weight, before)
    record = json.loads((tmp_path / "initial_weights.json").read_text())
    assert record["not_used"] == ["conv1.weight"] and "a.net.encoder.conv1.weight" in record["not_in_it"]
    assert len(record["matched"]) == len(Encoder().state_dict()) - 1


def test_an_encoder_of_which_nothing_fits_is_refused(tmp_path):
    torch.save(Encoder(width=16).state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(DataError, match=r"nothing in it fits.*conv1.weight \(16, 1, 3, 3, 3\).*docs/methods.md"):
        InitialWeights(tmp_path / "theirs.pth", pair())


def test_a_kernel_that_fits_by_chance_is_no_match(tmp_path):
    weights = {f"layer{number}.weight": torch.ones(7, 7, number) for number in range(1, 20)}
    torch.save(weights | {"other.conv1.weight": torch.ones(4, 1, 3, 3, 3)}, tmp_path / "theirs.pth")
    with pytest.raises(DataError, match="nothing in it fits"):
        InitialWeights(tmp_path / "theirs.pth", pair())


def test_weights_of_other_networks_can_be_left_alone(tmp_path, caplog):
    save(tmp_path / "model.pt")
    network = torch.nn.Conv3d(1, 4, 1)
    before = network.weight.clone()
    engine = make_engine()
    InitialWeights(tmp_path / "model.pt", network, required=False).attach(engine)
    engine.run([0])
    assert torch.equal(network.weight, before) and "starts from random weights" in caplog.text


def write_pickle(path):
    path.write_bytes(pickle.dumps(os.path.join))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: None, "is missing"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_text("weights"), "is damaged"),
        (write_pickle, "is damaged"),
        (lambda path: torch.save({"weight": torch.tensor([float("nan")])}, path), "weight is not finite"),
        (lambda path: torch.save([1, 2], path), "no flat state dict"),
        (lambda path: torch.save({"network": {"weight": torch.zeros(1)}}, path), "no flat state dict"),
        (lambda path: (save(path), path.write_bytes(path.read_bytes()[:700])), "is damaged"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path, write, told):
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(DataError, match=told) as refused:
        InitialWeights(path, torch.nn.Conv3d(1, 3, 1))
    assert str(path) in str(refused.value) and "--initial_weights" in str(refused.value)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("")])
def test_a_lost_record_of_a_resumed_run_is_written_again_with_a_warning(tmp_path, damage, caplog):
    (tmp_path / "last.pt").touch()
    record = tmp_path / "initial_weights.json"
    record.write_text("{}")
    damage(record)
    InitialWeights("model.pt", torch.nn.Conv3d(1, 3, 1), output_dir=str(tmp_path))
    assert json.loads(record.read_text()) == {"path": "model.pt"}
    assert f"{record} is lost or damaged" in caplog.text


@pytest.mark.slow
def test_a_run_of_another_method_starts_from_a_supervised_one(bundle_root, tmp_path):
    data = phantom_dataset(
        tmp_path / "data", size=(32, 32, 32), labeled=2, unlabeled=2, validation=0, test=0, progress=False
    )

    def train(method, *recipes, **options):
        names = ("train", f"methods/{method}", *recipes)
        configs = [str(bundle_root / "configs" / f"{name}.json") for name in names]
        small = {"base_channels": 4, "max_epochs": 1, "epoch_length": 2, "batch_size": 2, "unlabeled_batch_size": 2}
        options = {"dataset_dir": data, "runs_dir": tmp_path / "runs", "bundle_root": bundle_root, **small, **options}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(configs), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return ended, tmp_path / "runs" / f"phantom_{method}_seed0"

    ended, first = train("supervised")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    weights = torch.load(first / "model.pt", weights_only=True)
    ended, second = train("dual_network_copy_paste", initial_weights=first / "model.pt", learning_rate=0.0)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kept = torch.load(second / "model.pt", weights_only=True)  # the moving average, of steps without length
    assert all(torch.equal(kept[name], value) for name, value in weights.items()) and kept.keys() == weights.keys()
    assert json.loads((second / "config.json").read_text())["initial_weights"] == str(first / "model.pt")
    # the recipe finds the supervised run by data set, datalist and seed, and refuses to start without one
    ended, _ = train("cps", "recipes/pretrained", seed=1)
    told = "phantom_supervised_seed1 with datalist_name datalist.json: train it first"
    assert ended.returncode != 0 and told in ended.stderr + ended.stdout
    ended, second = train("cps", "recipes/pretrained", learning_rate=0.0)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kept = torch.load(second / "model.pt", weights_only=True)
    assert all(torch.equal(kept[name], value) for name, value in weights.items())
    assert json.loads((second / "run.json").read_text())["initial_weights"] == str(first / "model.pt")
    assert json.loads((first / "run.json").read_text())["initial_weights"] is None
    ended, _ = train("cps", initial_weights=first / "model.pt", base_channels=8)
    assert ended.returncode != 0 and "is of other networks than this run's" in ended.stderr + ended.stdout
