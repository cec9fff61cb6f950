# SPDX-License-Identifier: Apache-2.0
"""Bad input ends the main command before its first step: one clear error with file and remedy, nothing overwritten."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data import phantom_dataset

ROOM = "Make room, or name a folder of yours."
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def rewrite(path, change):
    """Store a NIfTI file again with other voxels."""
    scan = nibabel.load(path)
    voxels = change(np.asanyarray(scan.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(voxels, scan.affine), path)


def with_voxel(value):
    def change(voxels):
        voxels[3, 4, 5] = value
        return voxels

    return change


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_list(data, change):
    path = data / "datalist.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first(data, section, role):
    """The file of the first case of a section."""
    return data / json.loads((data / "datalist.json").read_text())[section][0][role]


# What is wrong -> (how a sound data set is spoilt, the file to be named, what the message must say, remedy included)
BAD = {
    "missing folder": (
        lambda data: shutil.rmtree(data),
        lambda data: data,
        ["no such folder", "Correct --dataset_dir"],
    ),
    "empty list": (
        lambda data: edit_list(data, lambda content: content.update(training=[])),
        lambda data: data / "datalist.json",
        ['"training" is empty', "List at least one case"],
    ),
    "missing file": (
        lambda data: first(data, "unlabeled", "image").unlink(),
        lambda data: first(data, "unlabeled", "image"),
        ["no such image file", "correct its path"],
    ),
    "label value out of range": (
        lambda data: rewrite(first(data, "training", "label"), with_voxel(7)),
        lambda data: first(data, "training", "label"),
        ["label values 7 in 1 voxels", "Correct the voxels"],
    ),
    "image and label of different shapes": (
        lambda data: rewrite(first(data, "training", "label"), lambda voxels: voxels[:-1]),
        lambda data: first(data, "training", "label"),
        ["(15, 16, 16)", "(16, 16, 16)", "Pair the right files"],
    ),
    "truncated file": (
        lambda data: truncate(first(data, "test", "image")),
        lambda data: first(data, "test", "image"),
        ["truncated", "Copy or download it again"],
    ),
    "NaN in an image": (
        lambda data: rewrite(
            first(data, "unlabeled", "image"), lambda voxels: with_voxel(np.nan)(voxels.astype(np.float32))
        ),
        lambda data: first(data, "unlabeled", "image"),
        ["NaN", "Replace them"],
    ),
    "case in two sections": (
        lambda data: edit_list(data, lambda content: content["test"].append(content["training"][0])),
        lambda data: first(data, "training", "image"),
        ['in both "training" and "test"', "Remove it from one"],
    ),
}


def command(folder):
    return [
        "run",
        "training",
        "--config_file=configs/train.json",
        f"--dataset_dir={folder / 'data'}",
        f"--runs_dir={folder / 'runs'}",
    ]


def contents(folder):
    """{path: digest} of every file below a folder."""
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, bundle_root):
    """{what is wrong: (folder, exit code, output, files before, files after)}."""
    root = tmp_path_factory.mktemp("bad_input")
    sizes = {"labeled": 2, "unlabeled": 1, "validation": 1, "test": 1}
    phantom_dataset(root / "sound", size=(16, 16, 16), **sizes, progress=False)
    before = {}
    for name, (spoil, *_) in BAD.items():
        folder = root / name.replace(" ", "_")
        shutil.copytree(root / "sound", folder / "data")
        spoil(folder / "data")
        # An earlier run of the same name, which must stay as it is.
        earlier = folder / "runs" / "phantom_mean_teacher_copy_paste_seed0"
        earlier.mkdir(parents=True)
        for file in ("config.json", "last.pt", "model.pt"):
            (earlier / file).write_text("{}")
        before[folder] = contents(folder)
    jobs = [(command(folder), str(root / f"{folder.name}.log")) for folder in before]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fork_bundle.py"))],
        input=json.dumps(jobs),
        cwd=bundle_root,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    codes = json.loads(done.stdout)
    logs = [Path(log).read_text() for _, log in jobs]
    return {
        name: (folder, code, log, before[folder], contents(folder))
        for name, folder, code, log in zip(BAD, before, codes, logs, strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_one_clear_error_and_nothing_touched(outcomes, name):
    folder, code, output, before, after = outcomes[name]
    _, file, words = BAD[name]
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert code == 1
    assert len(errors) == 1, output
    assert str(file(folder / "data")) in errors[0]
    assert all(word in errors[0] for word in words), errors[0]
    assert "Traceback" not in output and "epoch 1/" not in output
    assert after == before


@pytest.mark.slow
def test_a_real_data_set_is_never_replaced_by_the_phantom(tmp_path, bundle_root):
    # The command itself, in a fresh interpreter.
    configs = "['configs/train.json','configs/datasets/hippocampus.json']"
    arguments = ["run", "training", "--config_file", configs, f"--runs_dir={tmp_path / 'runs'}"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *arguments],
        cwd=bundle_root,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    assert "Error: No data set given. Add --dataset_dir FOLDER" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_disk_that_fills_up_during_training_is_one_line_and_leaves_no_half_file(tmp_path, bundle_root):
    phantom_dataset(tmp_path / "data", size=(16, 16, 16), labeled=2, unlabeled=1, validation=0, test=1, progress=False)
    small = ["--max_epochs=1", "--epoch_length=1", "--base_channels=4", "--tensorboard=False", "--batch_size=1"]
    arguments = [sys.executable, "-m", "monai.bundle", *command(tmp_path), *small]

    def fill():  # bytes: writing more to a file fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    options = {"cwd": bundle_root, "env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": 300}
    full = subprocess.run(arguments, preexec_fn=fill, **options)
    (folder,) = (tmp_path / "runs").iterdir()
    errors = [line for line in full.stderr.splitlines() if line.startswith("Error: ")]
    assert full.returncode == 1
    # PyTorch's writer reports either the system's reason or, from its archive, none
    reasons = ("File too large", "is the disk full?")
    assert errors in [[f"Error: {folder / 'last.pt'}: cannot be written ({why}). {ROOM}"] for why in reasons], (
        full.stderr
    )
    assert "Traceback" not in full.stdout + full.stderr
    assert not [path for path in folder.rglob("*") if path.suffix == ".pt" or ".part" in path.name]
