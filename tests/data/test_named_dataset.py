# SPDX-License-Identifier: Apache-2.0
"""A crop that is not finite is named: its scan, and the transform that made it; all others stay as MONAI makes them."""

import logging

import nibabel
import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapTransform,
    RandAffined,
    RandGaussianNoised,
    Randomizable,
    RandSpatialCropd,
)

from scripts.data import NamedCacheDataset


class DividesByZerod(MapTransform, Randomizable):
    """Now and then."""

    def __call__(self, data):
        data = dict(data)
        if self.R.random() < 0.5:
            data["image"] = data["image"] / 0
        return data


@pytest.fixture
def scans(tmp_path):
    for name in "ab":
        voxels = np.random.default_rng(0).uniform(1, 2, (8, 8, 8)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii")
    return [{"image": str(tmp_path / f"{name}.nii")} for name in "ab"]


def transforms(*further):
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            EnsureTyped("image", track_meta=False),
            RandSpatialCropd("image", (4, 4, 4), random_size=False),
            RandAffined("image", prob=0.5, rotate_range=0.3),
            *further,
            RandGaussianNoised("image", prob=0.5),
        ]
    )


@pytest.mark.parametrize("cache_rate", [0.0, 1.0])
def test_scan_and_transform_are_named_and_the_crop_is_as_it_would_be(scans, caplog, cache_rate):
    crops, named = [], set()
    for kind in (CacheDataset, NamedCacheDataset):
        steps = transforms(DividesByZerod("image")).set_random_state(seed=1)
        dataset = kind(scans, steps, cache_rate=cache_rate, progress=False)
        with caplog.at_level(logging.WARNING):
            crops.append([dataset[number % 2]["image"] for number in range(12)])
    for number, (plain, ours) in enumerate(zip(*crops, strict=True)):
        assert torch.equal(torch.as_tensor(plain), torch.as_tensor(ours))
        if not plain.isfinite().all():
            named.add(scans[number % 2]["image"])
    lines = [record.message for record in caplog.records]
    assert 0 < len(named) == len(lines)  # once for each
    for scan in named:
        assert f"{scan}: a crop of it is not finite after DividesByZerod." in "\n".join(lines)


def test_finite_crops_say_nothing(scans, caplog):
    dataset = NamedCacheDataset(scans, transforms(), progress=False)
    assert all(dataset[0]["image"].isfinite().all() for _ in range(3)) and not caplog.records
