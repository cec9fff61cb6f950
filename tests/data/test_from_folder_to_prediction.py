# SPDX-License-Identifier: Apache-2.0
"""What a user with a folder of scans does: split, check, train, infer. No config is edited."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import run
from monai.data import MetaTensor

from scripts.cli import main
from scripts.data import DataError, SaveSegmentationd

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
    assert folder.name == "my scans_mean_teacher_copy_paste_seed0"
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
    """Volumes smaller than a patch, axes in another order, one channel CT and one not, a label without foreground."""
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
    datalist = json.loads((tmp_path / "data" / "datalist.json").read_text())
    assert datalist["modality"] == ["CT", "PET"] and all(set(case) == {"image"} for case in datalist["unlabeled"])
    empty = tmp_path / "data" / datalist["training"][1]["label"]  # the structures are not in this scan
    nibabel.save(nibabel.Nifti1Image(np.zeros_like(label), affine), empty)
    folder = train(bundle_root, tmp_path / "data", tmp_path / "runs", batch_size=2, unlabeled_batch_size=2)
    override = json.loads((folder / "inference.json").read_text())
    assert override["in_channels"] == 2 and set(override["labels"].values()) == set(names)
    assert [channel["modality"] for channel in override["intensity_channels"]] == ["CT", "other"]
    assert override["spacing"] == [1.0, 3.0, 1.0] and override["patch_size"] == [32, 8, 32]  # 8 thick slices
    assert override["stem_stride"] == [2, 1, 2] and override["strides"] == [2, [2, 1, 2], [2, 1, 2], [2, 1, 2]]
    scans = tmp_path / "in"
    scans.mkdir()
    for file in (tmp_path / "data" / "imagesTr").glob("case[05]_*"):
        shutil.copy(file, scans)
    channels = [nibabel.load(scans / f"case5_{channel:04d}.nii.gz") for channel in (0, 1)]
    both = np.stack([np.asarray(channel.dataobj) for channel in channels], axis=-1)
    nibabel.save(nibabel.Nifti1Image(both, affine), scans / "together.nii.gz")
    results = infer(bundle_root, folder, scans, tmp_path / "out")
    assert [path.name for path in results] == [f"{name}_seg.nii.gz" for name in ("case0", "case5", "together")]
    found = [nibabel.load(path) for path in results]
    assert all(np.allclose(result.affine, affine, atol=1e-5) and result.shape == label.shape for result in found)
    assert (np.asarray(found[1].dataobj) == np.asarray(found[2].dataobj)).all()  # however the channels are stored
    (scans / "case0_0001.nii.gz").write_bytes(b"")
    with pytest.raises(Exception) as caught:
        infer(bundle_root, folder, scans, tmp_path / "second")
    assert "case0_0001.nii.gz: 0 bytes. Copy or download it again." in str(caught.value.__cause__)
    assert list((tmp_path / "second").iterdir()) == []


def test_benchmark_file_to_prediction(bundle_root, shared_data, tmp_path):
    """The shipped model on HDF5, as it is; the result has the case's name, not that of its file."""
    (tmp_path / "in" / "CASE").mkdir(parents=True)
    with h5py.File(tmp_path / "in" / "CASE" / "mri_norm2.h5", "w") as file:
        source = shared_data / "left_atrium" / "h5" / "FGM5NIWN3URY4HF4WNUW" / "mri_norm2.h5"
        with h5py.File(source) as whole:
            file["image"] = whole["image"][40:104, 30:94, 10:58]
    files = str(bundle_root / "configs" / "inference.json")
    options = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out")}
    run(run_id="run", config_file=files, bundle_root=str(bundle_root), **options)
    (result,) = (tmp_path / "out").iterdir()
    assert result.name == "CASE_seg.nii.gz" and nibabel.load(result).shape == (64, 64, 48)
    assert np.diag(nibabel.load(result).affine)[:3].tolist() == [0.625] * 3
    assert nibabel.load(result).get_data_dtype() == np.uint8


def test_a_full_disk_leaves_no_half_segmentation(tmp_path):
    segmentation = MetaTensor(torch.randint(0, 4, (1, 40, 40, 40)), meta={"filename_or_obj": "in/a.nii.gz"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes: writing more fails, as on a full disk
    try:
        with pytest.raises(DataError, match="a_seg.nii.gz: cannot be written .File too large.. Make room"):
            SaveSegmentationd("pred", str(tmp_path))({"pred": segmentation})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    SaveSegmentationd("pred", str(tmp_path))({"pred": segmentation})
    assert (np.asarray(nibabel.load(tmp_path / "a_seg.nii.gz").dataobj) == segmentation[0].numpy()).all()
