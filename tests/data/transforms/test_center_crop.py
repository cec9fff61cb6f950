# SPDX-License-Identifier: Apache-2.0
"""Networks that look at the middle of a scan: what they see, what is said to lie outside, and where results lie."""

import logging

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    Spacingd,
)

from scripts.data import CenterCropd, DataError
from scripts.data.transforms.center_crop import center_crop_voxels

GRID = (2.0, 2.0, 10.0)
MIDDLE = [64.0, 48.0, 0]


def scan(shape=(60, 50, 5)):
    return MetaTensor(torch.rand(1, *shape), affine=torch.diag(torch.tensor([*GRID, 1.0])))


@pytest.mark.parametrize(
    ("size", "pixdim", "expected"),
    [
        ([256.0, 256.0, 0], [1.6, 1.6, 10.0], [160, 160, -1]),
        ([256, None, 45.0], [1.5, 1.5, 10.0], [171, -1, 4]),
        ([0.5, 30], [1.0, 1.0], [1, 30]),  # never none
    ],
)
def test_millimetres_become_voxels(size, pixdim, expected):
    assert center_crop_voxels(size, pixdim) == expected


def test_image_and_label_keep_their_middle_and_the_given_ones_stay():
    item = {"image": scan(), "label": (scan() > 0.5).float()}
    found = CenterCropd(["image", "label"], MIDDLE, GRID)(item)
    assert found["image"].shape == found["label"].shape == (1, 32, 24, 5) and item["image"].shape == (1, 60, 50, 5)
    assert torch.equal(found["image"].as_tensor(), item["image"].as_tensor()[:, 14:46, 13:37])
    assert torch.equal(found["image"].affine, found["label"].affine)
    assert found["image"].affine[:3, 3].tolist() == [28.0, 26.0, 0.0]  # where its first voxel is
    small = CenterCropd(["image", "label"], MIDDLE, GRID, allow_missing_keys=True)({"image": scan((20, 50, 5))})
    assert small["image"].shape == (1, 20, 24, 5) and small.keys() == {"image"}


@pytest.mark.parametrize("outside", [0, 1, 200])
def test_what_a_label_has_outside_is_told_of(caplog, outside):
    label = torch.zeros(1, 60, 50, 5)
    label[0, 20:40, 20:30, 2] = 2  # 200 voxels in the middle
    label[0].view(-1)[:outside] = 1
    label[0, -1] = -1  # not annotated: no structure
    label = MetaTensor(label, affine=torch.diag(torch.tensor([*GRID, 1.0])), meta={"filename_or_obj": "labels/a.nii"})
    with caplog.at_level(logging.WARNING):
        CenterCropd(["image", "label"], MIDDLE, GRID)({"image": scan(), "label": label})
    assert len(caplog.records) == bool(outside)
    if outside:
        assert f"labels/a.nii: {100 * outside / (200 + outside):.1f} % of its structures lie outside" in caplog.text
        assert "a larger center_crop, or 0 for whole scans" in caplog.text


@pytest.mark.parametrize("turned", [False, True])
def test_a_result_lies_on_its_scan_with_background_around(tmp_path, turned):
    turn = np.array([[0, -2.4, 0, 5], [2.4, 0, 0, -9], [0, 0, 8.0, 2], [0, 0, 0, 1]])
    affine = turn if turned else np.diag([*GRID, 1])
    voxels = np.zeros((60, 80, 5), np.float32)
    voxels[20:40, 30:50, 1:4] = 1
    voxels[:5] = 1  # outside of the middle
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    steps = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", GRID),
            CenterCropd("image", [100.0, 100.0, None], GRID),
        ]
    )
    [batch] = DataLoader(Dataset([{"image": str(tmp_path / "scan.nii.gz")}], steps), batch_size=1)
    assert batch["image"].shape[2:4] == (50, 50)
    batch["pred"] = torch.cat([4 - 8 * batch["image"], 8 * batch["image"] - 4, -9 * torch.ones_like(batch["image"])], 1)
    [item] = decollate_batch(batch)
    item = Activationsd("pred", softmax=True)(item)
    back = Invertd("pred", steps, orig_keys="image", nearest_interp=False)(item)
    assert torch.allclose(back["pred"].sum(0), torch.ones(voxels.shape), atol=1e-4)  # sure of background outside
    classes = AsDiscreted("pred", argmax=True)(back)["pred"]
    assert np.array_equal(classes.affine.numpy(), nibabel.load(tmp_path / "scan.nii.gz").affine)
    voxels[:5] = 0
    assert classes.shape[1:] == voxels.shape and (classes[0].numpy() != voxels).sum() < 0.05 * voxels.sum()


def test_a_mask_gets_zeros_around():
    step = CenterCropd("image", MIDDLE, GRID)
    item = step({"image": scan()})
    back = Invertd("pred", step, orig_keys="image")({**item, "pred": torch.ones_like(item["image"])})["pred"]
    assert back.shape == (1, 60, 50, 5) and back.sum() == 32 * 24 * 5


@pytest.mark.parametrize("config", ["train", "inference"])
@pytest.mark.parametrize(("given", "steps"), [({}, 1), ({"center_crop": 0}, 0), ({"center_crop": None}, 0)])
def test_the_command_line_can_take_it_away(config, given, steps, bundle_root):
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / f"{name}.json") for name in (config, "datasets/acdc")])
    parser.update(given)
    key = "validate#preprocessing" if config == "train" else "preprocessing"
    if config == "train":
        parser["data"] = {"labels": {0: "background"}, "training": [], "validation": []}
    assert sum(isinstance(one, CenterCropd) for one in parser.get_parsed_content(key).transforms) == steps


@pytest.mark.parametrize("size", [[64.0, 64.0], [64.0, -1.0, 0], [float("nan")] * 3, [float("inf"), 1, 1], "all", 64.0])
def test_no_middle_is_refused(size):
    with pytest.raises(DataError, match=r"center_crop .*: give 3 lengths in mm, one for each axis, such as \[256"):
        CenterCropd("image", size, GRID)
