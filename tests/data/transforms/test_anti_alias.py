# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Spacingd

from scripts.data import AntiAliasd


def scan(voxels: torch.Tensor, spacing=(1.0, 1.0, 1.0)) -> MetaTensor:
    return MetaTensor(voxels, affine=torch.diag(torch.tensor([*spacing, 1.0])))


def test_what_is_finer_than_the_new_voxels_averages_out():
    stripes = torch.zeros(1, 24, 24, 24)
    stripes[:, ::2] = 1
    resample = Spacingd("image", pixdim=(2, 2, 2))
    skipped = resample({"image": scan(stripes.clone())})["image"]
    averaged = Compose([AntiAliasd("image", (2, 2, 2)), resample])({"image": scan(stripes.clone())})["image"]
    assert float((skipped - 0.5).abs().max()) == pytest.approx(0.5)  # all of one stripe, none of the other
    assert float((averaged - 0.5)[:, 1:-1].abs().max()) < 0.3
    noise = torch.randn(1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    smoothed = AntiAliasd("image", (2.5, 2.5, 2.5))({"image": scan(noise)})["image"]
    # a Gaussian of s voxels leaves 1 / (2 sqrt(pi) s) of the variance along each axis
    expected = (1 / (2 * np.sqrt(np.pi) * 0.75)) ** 3
    assert float(smoothed[:, 4:-4, 4:-4, 4:-4].var()) == pytest.approx(expected, rel=0.25)


def test_edges_are_continued():
    air = torch.full((2, 9, 8, 7), -1000.0)
    found = AntiAliasd("image", (3, 3, 3))({"image": scan(air)})["image"]
    assert found.shape == air.shape and torch.allclose(found.as_tensor(), air)


def test_only_axes_that_are_coarsened():
    voxels = torch.rand(1, 12, 10, 8, generator=torch.Generator().manual_seed(0))
    image = scan(voxels, spacing=(1.0, 1.0, 3.0))
    assert AntiAliasd("image", (1.0, 0.5, 3.0))({"image": image})["image"] is image
    found = AntiAliasd("image", (1.0, 2.0, 2.0))({"image": image})["image"].as_tensor()
    ramp = torch.arange(12.0).reshape(1, 12, 1, 1).expand(1, 12, 10, 8)
    along = AntiAliasd("image", (1.0, 2.0, 2.0))({"image": scan(ramp.clone(), (1.0, 1.0, 3.0))})["image"]
    assert torch.allclose(along.as_tensor(), ramp, atol=1e-5)  # nothing moves along the axis that stays
    assert not torch.allclose(found, voxels) and torch.allclose(found.mean((2, 3)), voxels.mean((2, 3)), atol=0.05)


def test_predictions_return_to_the_scans_own_grid():
    image = scan(torch.rand(1, 21, 18, 15), spacing=(0.6, 0.6, 0.6))
    there = Compose([AntiAliasd("image", (1.5, 1.5, 1.5)), Spacingd("image", pixdim=(1.5, 1.5, 1.5))])
    item = there({"image": image})
    item["pred"] = MetaTensor(torch.ones_like(item["image"]), meta=item["image"].meta)
    back = Invertd("pred", there, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert back.shape == image.shape and torch.allclose(back.affine, image.affine)
