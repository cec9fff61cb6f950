# SPDX-License-Identifier: Apache-2.0
"""A scan by slabs is segmented as by MONAI's whole pipeline, whatever its grid and order of axes."""

import csv

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.handlers import CheckpointLoader
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
)

from scripts.certainty import NoteCertaintyd, ReviewCsv
from scripts.data import AntiAliasd, CenterCropd, FieldOfViewd, LoneSpacingd, SaveSegmentationd
from scripts.engines import DualEvaluator
from scripts.errors import DataError
from scripts.inference import LargeScans, UsableScans
from scripts.inference.streaming import segment_by_slabs
from scripts.inference.streaming.grids import Axis, resampled_planes
from scripts.networks import DualEnsemble

OBLIQUE = np.array([[0.9, 0.05, 0.1, 3], [-0.05, 0.9, 0.02, -7], [-0.1, -0.01, 0.9, 5], [0, 0, 0, 1]])
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0]


class Local(torch.nn.Conv3d):
    """A subnet that sees its neighbours."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        super().__init__(1, 3, 5, padding=2)
        torch.nn.init.normal_(self.weight, std=0.3)


def network():
    return DualEnsemble(Local(0), Local(1)).eval()


def save_scan(path, shape, affine):
    noise = np.random.default_rng(0).normal(size=shape)
    smooth = np.fft.ifftn(
        np.fft.fftn(noise)
        * np.exp(
            -sum((np.abs(np.fft.fftfreq(n)) * 8)[(slice(None),) + (None,) * (2 - axis)] for axis, n in enumerate(shape))
        )
    ).real
    nibabel.save(nibabel.Nifti1Image((1000 * smooth / smooth.std()).astype(np.int16), affine), path)


def whole(path, spacing, inferer, out, field_of_view=None, center_crop=None):
    """What configs/inference.json does, with all probabilities at once."""
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            *([] if field_of_view is None else [FieldOfViewd("image", field_of_view, spacing)]),
            AntiAliasd("image", pixdim=spacing),
            LoneSpacingd("image", pixdim=spacing, mode="bilinear"),
            *([] if center_crop is None else [CenterCropd("image", center_crop, spacing)]),
            NormalizeIntensityd("image"),
        ]
    )
    after = Compose(
        [
            NoteCertaintyd(),
            Activationsd("pred", softmax=True),
            Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
            SaveSegmentationd("pred", str(out)),
        ]
    )
    evaluator = DualEvaluator(
        torch.device("cpu"),
        DataLoader(Dataset([{"image": str(path)}], before), batch_size=1),
        network(),
        inferer=inferer,
        postprocessing=after,
    )
    evaluator.run()
    item = evaluator.state.output[0]
    return np.asarray(nibabel.load(out / "scan_seg.nii.gz").dataobj), item


GRIDS = {
    "the networks' own": ((20, 18, 30), np.diag([1.0, 1, 1, 1]), (1, 1, 1), (16, 16, 8)),
    "coarser": ((14, 12, 9), np.diag([2.0, 2, 3, 1]), (1.5, 1.5, 1.5), (16, 16, 8)),
    "finer, turned": (
        (30, 24, 22),
        np.array([[0, 0, -1, 9], [0.6, 0, 0, 4], [0, -0.6, 0, 2], [0, 0, 0, 1.0]]),
        (1, 1, 1),
        (8, 8, 8),
    ),
    "oblique": ((18, 20, 16), OBLIQUE @ np.diag([0.9, 0.8, 1.4, 1]), (1, 1, 1), (8, 16, 8)),
    "smaller than a window": ((7, 20, 6), np.diag([-1.0, 1, 1, 1]), (1, 1, 1), (16, 16, 16)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_slabs_give_what_the_whole_gives(tmp_path, name):
    shape, affine, spacing, roi = GRIDS[name]
    save_scan(tmp_path / "scan.nii.gz", shape, affine)
    inferer = SlidingWindowInferer(roi_size=roi, sw_batch_size=2, overlap=0.5, mode="gaussian")
    expected, item = whole(tmp_path / "scan.nii.gz", spacing, inferer, tmp_path / "whole")
    normalize = NormalizeIntensityd("image")
    found = segment_by_slabs([str(tmp_path / "scan.nii.gz")], network(), inferer, normalize, spacing)
    assert found.classes.shape == expected.shape and len(np.unique(expected)) == 3
    assert (found.classes == expected).mean() > 0.999
    assert np.allclose(found.affine, affine, atol=1e-5)
    assert found.agreement == pytest.approx(item["agreement"], abs=0.05)


THICK = np.array([[0, 0, -6.0, 9], [1.5, 0, 0, 4], [0, -1.5, 0, 2], [0, 0, 0, 1]])
"""Slices across the last axis of the file, which is the first of the patient."""


@pytest.mark.parametrize("length", [24.0, 60.0])
def test_slabs_of_a_scan_without_a_pixel_size(tmp_path, length):
    save_scan(tmp_path / "scan.nii.gz", (30, 24, 9), THICK)
    inferer = SlidingWindowInferer(roi_size=(8, 16, 16), sw_batch_size=2, overlap=0.5, mode="gaussian")
    spacing = (6.0, 1.5, 1.5)
    expected, item = whole(tmp_path / "scan.nii.gz", spacing, inferer, tmp_path / "whole", length)
    assert item["image"].shape[-2:] == (1 + round(29 * length / 45), 1 + round(23 * length / 45))
    normalize, path = NormalizeIntensityd("image"), [str(tmp_path / "scan.nii.gz")]
    found = segment_by_slabs(path, network(), inferer, normalize, spacing, field_of_view=length)
    assert (found.classes == expected).mean() > 0.999 and len(np.unique(expected)) == 3
    assert np.allclose(found.affine, THICK, atol=1e-5)
    without = segment_by_slabs(path, network(), inferer, normalize, spacing)
    assert (without.classes == expected).mean() < 0.99
    usable = UsableScans([{"image": path[0]}], {0: "background", 1: "a", 2: "b"}, channels=1)
    voxels = 30 * 24 * 9 * max(1, (length / 45) ** 2)
    for room, streamed in ((0.9, 1), (1.1, 0)):  # the memory that it takes is that of the grid it gets
        scans = LargeScans(usable, 3, spacing, voxels * 76 * room / 2**30, field_of_view=length)
        assert len(scans.large) == streamed


@pytest.mark.parametrize("middle", [(18.0, 0, 0), (24.0, 15.0, 12.0), (7.0, 9.0, None), (99.0, 99.0, 99.0)])
def test_slabs_of_the_middle_of_a_scan(tmp_path, middle):
    shape, affine, spacing, roi = GRIDS["finer, turned"]
    save_scan(tmp_path / "scan.nii.gz", shape, affine)
    inferer = SlidingWindowInferer(roi_size=roi, sw_batch_size=2, overlap=0.5, mode="gaussian")
    spacing, path = (0.8, 0.8, 0.8), [str(tmp_path / "scan.nii.gz")]
    expected, item = whole(path[0], spacing, inferer, tmp_path / "whole", center_crop=middle)
    normalize = NormalizeIntensityd("image")
    found = segment_by_slabs(path, network(), inferer, normalize, spacing, center_crop=middle)
    assert (found.classes == expected).mean() > 0.999 and len(np.unique(expected)) == 3
    assert np.allclose(found.affine, affine, atol=1e-5)
    assert found.agreement == pytest.approx(item["agreement"], abs=0.05)
    without = segment_by_slabs(path, network(), inferer, normalize, spacing)
    assert ((without.classes == expected).mean() == 1) == (middle[0] == 99.0)


def test_planes_are_resampled_across_slabs():
    planes = torch.rand(2, 5, 4, 11)
    axes = [Axis(5, 1, 0), Axis(8, 0.5, 0), Axis(23, 0.5, -0.25)]
    parts = list(resampled_planes(iter(planes.split([1, 4, 2, 4], -1)), axes, 11))
    made = torch.cat(parts, -1).numpy()
    z = np.clip(np.arange(23) * 0.5 - 0.25, 0, 10)
    y = np.clip(np.arange(8) * 0.5, 0, 3)
    for c, x, j, k in [(0, 0, 0, 0), (1, 4, 7, 22), (0, 2, 3, 11), (1, 1, 5, 2)]:
        line = [np.interp(y[j], range(4), planes[c, x, :, p].numpy()) for p in range(11)]
        assert made[c, x, j, k] == pytest.approx(np.interp(z[k], range(11), line), abs=1e-5)
    assert made.shape == (2, 5, 8, 23)


def test_only_scans_that_are_too_large_are_streamed_and_listed_with_the_others(tmp_path):
    for name, size in (("small", 8), ("scan", 24)):
        save_scan(tmp_path / f"{name}.nii.gz", (size, 16, 16), np.eye(4))
    scans = [{"image": str(tmp_path / f"{name}.nii.gz")} for name in ("small", "scan")]
    usable = UsableScans(scans, {0: "background", 1: "a", 2: "b"}, channels=1)
    sorted_scans = LargeScans(usable, 3, (1, 1, 1), memory_gib=(16**3 * 76) / 2**30)
    assert sorted_scans.small == scans[:1] and sorted_scans.large == scans[1:]
    assert LargeScans(usable, 3, (1, 1, 1)).large == []
    inferer = SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.5, mode="gaussian")
    torch.save(network().state_dict(), tmp_path / "model.pt")
    other = DualEnsemble(Local(5), Local(6))
    handlers = [
        CheckpointLoader(str(tmp_path / "model.pt"), {"model": other}),
        ReviewCsv({0: "background", 1: "a", 2: "b"}, tmp_path / "out", tmp_path / "model.pt"),
    ]
    save = Compose([Activationsd("pred", softmax=True), SaveSegmentationd("pred", str(tmp_path / "out"))])
    sorted_scans.run(other, inferer, NormalizeIntensityd("image"), save, handlers)
    found = np.asarray(nibabel.load(tmp_path / "out" / "scan_seg.nii.gz").dataobj)
    expected, _ = whole(tmp_path / "scan.nii.gz", (1, 1, 1), inferer, tmp_path / "whole")
    assert (found == expected).mean() > 0.999
    [row] = csv.DictReader((tmp_path / "out" / "review.csv").open())
    assert float(row["a ml"]) == pytest.approx((found == 1).sum() / 1000, abs=1e-3)


def test_a_sheared_grid_is_named(tmp_path):
    sheared = np.eye(4)
    sheared[0, 2] = 0.4
    save_scan(tmp_path / "scan.nii.gz", (10, 10, 10), sheared)
    inferer = SlidingWindowInferer(roi_size=(8, 8, 8), overlap=0.5, mode="gaussian")
    usable = UsableScans([{"image": str(tmp_path / "scan.nii.gz")}], {0: "background", 1: "a"}, channels=1)
    large = LargeScans(usable, 3, (2, 2, 2), memory_gib=0)
    with pytest.raises(DataError, match="scan.nii.gz: its axes are not at right angles"):
        large.run(network(), inferer, NormalizeIntensityd("image"), Compose([]), [])
