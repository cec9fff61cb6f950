# SPDX-License-Identifier: Apache-2.0
"""Scans without pixel sizes come to one scale, and their results lie on them as if nothing had happened."""

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.scripts import update_kwargs
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, Spacingd

from scripts.data import DataError, FieldOfViewd, PlaneOfVolumed
from scripts.data.transforms.field_of_view import field_of_view_scale
from scripts.data.transforms.plane import volume_of_plane

GRID = (1.5, 1.5, 10.0)


def disc(side, radius):
    """A disc in the middle of ``side`` x ``side`` pixels, the same in 4 slices; nominal pixels of 1.5 mm."""
    x, y = np.mgrid[:side, :side] - (side - 1) / 2
    voxels = np.repeat((np.hypot(x, y) < radius)[..., None], 4, axis=2).astype(np.float32)
    return MetaTensor(torch.from_numpy(voxels)[None], affine=torch.diag(torch.tensor([*GRID, 1.0])))


@pytest.mark.parametrize(
    ("shape", "spacing", "grid", "expected"),
    [
        ((256, 200, 10), GRID, GRID, (0.5, 0.5, 1)),  # 384 mm become 192
        ((100, 300, 16), (2, 0.5, 5), GRID, (0.96, 0.96, 1)),  # the longer side is that of more mm, 200
        ((16, 100, 128), (10, 1.5, 1.5), (10, 1.5, 1.5), (1, 1, 1)),  # slices across the first axis
        ((48, 96, 24), (1, 1, 1), (1, 1, 1), (2, 2, 2)),  # no slices: the whole
        ((64, 128), (1, 1), (1, 1), (1.5, 1.5)),  # an image
    ],
)
def test_the_longer_side_of_a_slice_gets_its_length(shape, spacing, grid, expected):
    assert np.allclose(field_of_view_scale(shape, spacing, 192.0, grid), expected)


def test_one_disc_photographed_twice_is_as_large_on_the_grid():
    sampled = [disc(side, side / 8) for side in (128, 256)]
    without = [Spacingd("image", GRID)({"image": scan})["image"] for scan in sampled]
    assert [tuple(scan.shape[1:3]) for scan in without] == [(128, 128), (256, 256)]
    steps = Compose([FieldOfViewd("image", 288.0, GRID), Spacingd("image", GRID)])
    small, large = (steps({"image": scan})["image"] for scan in sampled)
    assert abs(small.sum() / large.sum() - 1) < 0.02
    assert small.sum() / 4 == pytest.approx(np.pi * 24**2, rel=0.02)  # an eighth of 288 mm, in pixels of 1.5 mm


@pytest.mark.parametrize("turned", [False, True])
def test_a_result_lies_on_its_scan(tmp_path, turned):
    affine = (
        np.array([[0, -1.4, 0, 5], [1.4, 0, 0, -9], [0, 0, 8.0, 2], [0, 0, 0, 1]]) if turned else np.diag([*GRID, 1])
    )
    voxels = np.zeros((60, 80, 5), np.float32)
    voxels[10:40, 20:60, 1:4] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    steps = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            FieldOfViewd("image", 200.0, GRID),
            Spacingd("image", GRID),
        ]
    )
    [batch] = DataLoader(Dataset([{"image": str(tmp_path / "scan.nii.gz")}], steps), batch_size=1)
    batch["pred"] = (batch["image"] > 0.5).float()
    assert max(batch["image"].shape[2:4]) in (133, 134)  # 200 mm in pixels of 1.5 mm
    [item] = decollate_batch(batch)
    back = Invertd("pred", steps, orig_keys="image", nearest_interp=True)(item)["pred"]
    assert np.array_equal(back.affine.numpy(), nibabel.load(tmp_path / "scan.nii.gz").affine)
    wrong = (back[0].numpy() != voxels).sum()
    assert back.shape[1:] == voxels.shape and wrong < 0.05 * voxels.sum()


def test_a_photograph_is_brought_to_its_length_and_its_result_back():
    photograph = MetaTensor(torch.rand(1, 60, 80, 1), affine=torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0])).double())
    photograph.meta["original_affine"] = photograph.affine.numpy()
    steps = Compose(
        [
            PlaneOfVolumed("image"),
            Orientationd("image", axcodes="RA", labels=None),
            FieldOfViewd("image", 40.0, (1.0, 1.0)),
            Spacingd("image", (1.0, 1.0)),
        ]
    )
    item = steps({"image": photograph})
    assert item["image"].shape[1:] in ((30, 40), (31, 41), (30, 41), (31, 40))
    back = Invertd("pred", steps, orig_keys="image", nearest_interp=True)({**item, "pred": item["image"].clone()})[
        "pred"
    ]
    voxels, affine = volume_of_plane(back)
    assert voxels.shape == (60, 80, 1) and np.array_equal(affine, photograph.affine.numpy())


def test_image_and_label_stay_together_and_the_given_ones_as_they_were():
    item = {"image": disc(64, 8), "label": disc(64, 8)}
    found = FieldOfViewd(["image", "label"], 48.0, GRID, allow_missing_keys=True)(item)
    assert torch.equal(found["image"].affine, found["label"].affine)
    assert found["image"].pixdim.tolist() == [0.75, 0.75, 10.0] and item["image"].pixdim.tolist() == list(GRID)
    assert not item["image"].applied_operations and torch.equal(found["image"].as_tensor(), item["image"].as_tensor())
    assert FieldOfViewd(["image", "label"], 48.0, GRID, allow_missing_keys=True)({"image": disc(64, 8)}).keys() == {
        "image"
    }
    with pytest.raises(KeyError):
        FieldOfViewd(["image", "label"], 48.0, GRID)({"image": disc(64, 8)})


@pytest.mark.parametrize("config", ["train", "inference"])
@pytest.mark.parametrize(("given", "steps"), [({}, 1), ({"field_of_view": 0}, 0), ({"field_of_view": None}, 0)])
def test_the_command_line_can_take_it_away(config, given, steps, bundle_root):
    """MONAI drops a None of the command line, so 0 is what a user can say."""
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / f"{name}.json") for name in (config, "datasets/acdc")])
    parser.update(given)
    key = "validate#preprocessing" if config == "train" else "preprocessing"
    if config == "train":
        parser["data"] = {"labels": {0: "background"}, "training": [], "validation": []}
    found = parser.get_parsed_content(key).transforms
    assert sum(isinstance(one, FieldOfViewd) for one in found) == steps
    assert update_kwargs(None, True, field_of_view=None) == {} and update_kwargs(None, True, field_of_view=0)


@pytest.mark.parametrize("length", [0, -1.0, float("nan"), float("inf"), "null"])
def test_no_length_is_refused(length):
    with pytest.raises(DataError, match="field_of_view .*: give the length in mm"):
        FieldOfViewd("image", length, GRID)
