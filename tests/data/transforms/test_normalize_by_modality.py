# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from scripts.data import NormalizeByModalityd

CT = {"modality": "CT", "low": -100.0, "high": 300.0, "mean": 50.0, "deviation": 25.0}
OTHER = {"modality": "other"}


def image_of(*channels: torch.Tensor) -> MetaTensor:
    return MetaTensor(torch.stack(channels), affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))


def test_ct_keeps_its_scale_and_others_get_their_own():
    torch.manual_seed(0)
    hounsfield, signal = torch.randint(-1000, 1000, (5, 6, 7)), torch.rand(5, 6, 7) * 80 + 7
    item = {"image": image_of(hounsfield, signal), "label": "untouched"}
    found = NormalizeByModalityd("image", [CT, OTHER])(item)
    assert torch.allclose(found["image"][0].as_tensor(), (hounsfield.clip(-100, 300) - 50) / 25)
    assert found["image"][1].mean().abs() < 1e-5 and (found["image"][1].std(unbiased=False) - 1).abs() < 1e-5
    assert found["label"] == "untouched"


def test_geometry_stays_and_the_given_image_too():
    item = {"image": image_of(torch.arange(27.0).reshape(3, 3, 3))}
    found = NormalizeByModalityd("image", [OTHER])(item)["image"]
    assert isinstance(found, MetaTensor) and torch.equal(found.affine, item["image"].affine)
    assert item["image"].max() == 26


def test_whole_numbers_become_fractions_and_a_constant_image_no_nan():
    counts = image_of(torch.arange(8, dtype=torch.int16).reshape(2, 2, 2))
    assert NormalizeByModalityd("image", [OTHER])({"image": counts})["image"].dtype == torch.float32
    constant = NormalizeByModalityd("image", [OTHER])({"image": image_of(torch.full((2, 2, 2), 3.0))})["image"]
    assert torch.equal(constant.as_tensor(), torch.zeros(1, 2, 2, 2))


def test_another_number_of_channels_is_an_error():
    with pytest.raises(ValueError, match="image of 1 channels, but 2 are described"):
        NormalizeByModalityd("image", [CT, OTHER])({"image": image_of(torch.zeros(2, 2, 2))})
