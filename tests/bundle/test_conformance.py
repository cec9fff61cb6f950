# SPDX-License-Identifier: Apache-2.0
"""The bundle passes MONAI's own checks, and its tools can load, export and run it from anywhere."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version

import nibabel
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, load, verify_metadata, verify_net_in_out

from scripts.data import phantom_dataset


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def config(root, *names):
    return [str(root / "configs" / f"{name}.json") for name in names]


def test_both_metadata_files_are_the_same(bundle_root):
    assert (bundle_root / "metadata.json").read_bytes() == (bundle_root / "configs" / "metadata.json").read_bytes()


def test_metadata_follows_the_specification(bundle_root, tmp_path):
    schema = shutil.copy(bundle_root / "tests" / "bundle" / "meta_schema.json", tmp_path)  # there already: no download
    verify_metadata(meta_file=str(bundle_root / "configs" / "metadata.json"), filepath=schema)


def test_metadata_names_the_versions_that_are_pinned(bundle_root):
    metadata = json.loads((bundle_root / "metadata.json").read_text())
    pins = dict(
        line.split("==") for line in (bundle_root / "requirements.txt").read_text().splitlines() if "==" in line
    )
    named = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    for name, number in {**named, **metadata["required_packages_version"]}.items():
        assert pins[name] == number, name
    assert metadata["version"] in metadata["changelog"]


def test_the_network_takes_and_gives_what_metadata_says(bundle_root):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        config_file=config(bundle_root, "inference"),
        device="cpu",
    )


@pytest.mark.parametrize(
    ("names", "workflow_type"), [(["train"], "train"), (["train", "evaluate"], "train"), (["inference"], "inference")]
)
def test_workflows_have_the_properties_that_tools_ask_for(bundle_root, elsewhere, names, workflow_type):
    counts = {"labeled": 2, "unlabeled": 2, "validation": 1, "test": 1}
    data = phantom_dataset(elsewhere / "data", size=(32, 32, 32), **counts, progress=False)
    options = {"bundle_root": str(bundle_root), "dataset_dir": data, "runs_dir": str(elsewhere / "runs")}
    if workflow_type == "inference":
        options["dataset_dir"] = os.path.join(data, "images")
    if "evaluate" in names:
        options["ckpt_path"] = shutil.copy(bundle_root / "models" / "model.pt", elsewhere)
    files = config(bundle_root, *names)
    workflow = ConfigWorkflow(files, workflow_type=workflow_type, logging_file=False, **options)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_a_checkpoint_exports_to_torchscript(bundle_root, tmp_path):
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(bundle_root / "models" / "model.pt"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        config_file=config(bundle_root, "inference"),
    )
    workflow = ConfigWorkflow(config(bundle_root, "inference"), workflow_type="inference", logging_file=False)
    workflow.initialize()
    network = workflow.network_def.eval()
    network.load_state_dict(torch.load(bundle_root / "models" / "model.pt", weights_only=True))
    image = torch.randn(1, 1, 32, 64, 32)
    with torch.no_grad():
        exported = torch.jit.load(tmp_path / "model.ts")(image)
        torch.testing.assert_close(exported, network(image), rtol=1e-4, atol=1e-4)


def test_monai_loads_the_bundle_with_its_weights(bundle_root, tmp_path):
    bundle = tmp_path / "dualseg"
    for folder in ("configs", "scripts", "models"):
        shutil.copytree(bundle_root / folder, bundle / folder, ignore=shutil.ignore_patterns("__pycache__"))
    network = load("dualseg", bundle_dir=str(tmp_path), source="github", workflow_type="inference")
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name].to(value.dtype)), name


LOAD = "from monai.bundle import load; n = load('dualseg', bundle_dir=FOLDER, source='github', workflow_type='{}')"
WORKFLOW = (
    "from monai.bundle import ConfigWorkflow; w = ConfigWorkflow(FOLDER + '/dualseg/configs/{0}.json', "
    "logging_file=False, workflow_type='{0}'); w.initialize(); n = w.network_def"
)


@pytest.mark.parametrize(("workflow", "network"), [("inference", "DualEnsemble"), ("train", "DualNetwork")])
@pytest.mark.parametrize("way", [LOAD, WORKFLOW])
def test_a_fresh_process_in_another_folder_loads_the_bundle(bundle_root, tmp_path, way, workflow, network):
    """Nothing but MONAI may have put the bundle on Python's path, as pytest does here."""
    bundle = tmp_path / "dualseg"
    for folder in ("configs", "scripts", "models"):
        shutil.copytree(bundle_root / folder, bundle / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "elsewhere").mkdir()
    code = (
        f"FOLDER = {str(tmp_path)!r}; {way.format(workflow)}; import scripts; print(type(n).__name__, scripts.__file__)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == [network, f"{bundle}/scripts/__init__.py"]


def test_inference_elsewhere_without_the_bundle_root_names_the_option(bundle_root, elsewhere):
    files = config(bundle_root, "inference")[0]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, "--dataset_dir", str(elsewhere)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "Name the bundle's folder with --bundle_root" in line
    assert "Traceback" not in done.stderr and not list(elsewhere.iterdir())


@pytest.mark.slow
def test_training_evaluation_and_inference_work_from_another_folder(bundle_root, elsewhere, tmp_path):
    data = phantom_dataset(
        tmp_path / "data", size=(32, 32, 32), labeled=2, unlabeled=2, validation=1, test=1, progress=False
    )
    runs = tmp_path / "runs"

    def bundle(*words, **options):
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "monai.bundle", "run", *words, "--bundle_root", str(bundle_root), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    small = {"base_channels": 4, "max_epochs": 2, "epoch_length": 2, "val_interval": 1, "batch_size": 2}
    options = {"dataset_dir": data, "runs_dir": runs, **small}
    output = bundle("training", config_file=config(bundle_root, "train")[0], **options)
    assert "HD95 (mm)" in output and "ASD (mm)" in output and "inference.json" in output
    run = runs / "phantom_mean_teacher_copy_paste_seed0"
    trained = json.loads((run / "metrics.json").read_text())
    bundle(config_file=str(config(bundle_root, "train", "evaluate")), **options)
    assert json.loads((run / "evaluation" / "metrics.json").read_text())["networks"] == trained["networks"]
    files = [*config(bundle_root, "inference"), str(run / "inference.json")]
    images = os.path.join(data, "images")
    bundle(config_file=str(files), dataset_dir=images, output_dir=tmp_path / "out")
    segmented = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert segmented == sorted(name.replace(".nii.gz", "_seg.nii.gz") for name in os.listdir(images))
    for name in os.listdir(images):
        scan, segmentation = (
            nibabel.load(os.path.join(images, name)),
            nibabel.load(tmp_path / "out" / name.replace(".nii.gz", "_seg.nii.gz")),
        )
        assert segmentation.shape == scan.shape
        assert (segmentation.affine == scan.affine).all()


def test_the_environment_is_the_one_that_is_pinned(bundle_root):
    """The exact requirements are what is tested: a run elsewhere shows here, not in a changed number."""
    if not os.environ.get("CI"):
        pytest.skip("only where CI is set: other versions within pyproject's ranges are supported")
    for line in (bundle_root / "requirements.txt").read_text().splitlines():
        if "==" in line:
            name, number = line.split("==")
            assert version(name).split("+")[0] == number, name
