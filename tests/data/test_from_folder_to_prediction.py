# SPDX-License-Identifier: Apache-2.0
"""What a user with a folder of scans does: split, check, train, infer. No config is edited."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.bundle import run

from scripts.data.cli import main

SMALL = {"max_epochs": 1, "epoch_length": 2, "base_channels": 4, "tensorboard": False}


def command(*words) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return caught.value.code


def train(bundle_root, data: Path, runs: Path, *names, **options) -> Path:
    files = [str(bundle_root / "configs" / f"{name}.json") for name in ("train", "datasets/folder", *names)]
    options = {**SMALL, "dataset_dir": str(data), "runs_dir": str(runs), **options}
    run(run_id="training", config_file=files, bundle_root=str(bundle_root), **options)
    return next(runs.glob("*/run.json")).parent


def infer(bundle_root, run_folder: Path, scans: Path, output: Path) -> list[Path]:
    run(
        run_id="run",
        config_file=[str(bundle_root / "configs" / "inference.json"), str(run_folder / "inference.json")],
        bundle_root=str(bundle_root),
        dataset_dir=str(scans),
        output_dir=str(output),
    )
    return sorted(output.iterdir())


def test_twenty_scans_in_a_folder(bundle_root, shared_data, tmp_path, capsys):
    source, data = shared_data / "hippocampus", tmp_path / "my scans"
    names = sorted(path.name for path in (source / "images").iterdir())[:21]
    for role in ("images", "labels"):
        (data / role).mkdir(parents=True)
        for name in names[:20]:
            shutil.copy(source / role / name, data / role / name)
    assert command("split", data, "--labeled=4", "--validation=2", "--test=3", "--names=background,head,tail") == 0
    assert command("check", data) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    folder = train(bundle_root, data, tmp_path / "runs", "recipes/cpu")
    assert folder.name == "my scans_dual_network_seed0"
    classes = json.loads((folder / "metrics.json").read_text())["networks"]["ensemble"]["classes"]
    assert set(classes) == {"head", "tail"}
    override = json.loads((folder / "inference.json").read_text())
    assert override["spacing"] == [1.0, 1.0, 1.0] and override["patch_size"] == [32, 64, 32]
    (tmp_path / "in").mkdir()
    shutil.copy(source / "images" / names[20], tmp_path / "in")
    (result,) = infer(bundle_root, folder, tmp_path / "in", tmp_path / "out")
    scan, prediction = nibabel.load(tmp_path / "in" / names[20]), nibabel.load(result)
    assert prediction.shape == scan.shape and np.allclose(prediction.affine, scan.affine, atol=1e-5)
    assert set(np.unique(prediction.dataobj)) <= {0, 1, 2}


def test_two_channels_four_classes_thick_slices_and_ct(bundle_root, tmp_path):
    """Volumes smaller than a patch, axes stored in another order, one channel CT and one of any other kind."""
    affine = np.array([[0, -1.0, 0, 40], [0, 0, 3.0, -7], [1.0, 0, 0, 3.5], [0, 0, 0, 1]])
    rng = np.random.default_rng(0)
    label = np.zeros((20, 24, 8), np.uint8)
    label[4:16, 4:10, 2:6], label[4:16, 12:18, 2:6], label[2:4, 2:22, 2:6] = 1, 2, 3
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(6):
        ct, pet = rng.normal(0, 50, label.shape) - 1000 + label * 350.0, rng.normal(label, 0.1)
        files = {f"imagesTr/case{number}_0000": ct, f"imagesTr/case{number}_0001": pet}
        for file, voxels in files.items():
            nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), affine), tmp_path / f"data/{file}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, affine), tmp_path / f"data/labelsTr/case{number}.nii.gz")
    names = {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}
    content = {"channel_names": {"0": "CT", "1": "PET"}, "labels": names, "file_ending": ".nii.gz"}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    assert command("split", tmp_path / "data", "--labeled=2", "--test=1") == 0
    folder = train(bundle_root, tmp_path / "data", tmp_path / "runs", batch_size=2, unlabeled_batch_size=2)
    override = json.loads((folder / "inference.json").read_text())
    assert override["in_channels"] == 2 and set(override["labels"].values()) == set(names)
    assert [channel["modality"] for channel in override["intensity_channels"]] == ["CT", "other"]
    assert override["spacing"] == [1.0, 3.0, 1.0] and override["patch_size"] == [32, 32, 32]
