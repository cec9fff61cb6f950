# SPDX-License-Identifier: Apache-2.0
"""Spacing under MONAI Label, which keeps the path of the scan beside the scan; it is not needed here."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Spacingd

from scripts.data import LoneSpacingd


def scan(path="scan.nii.gz"):
    image = MetaTensor(torch.rand(1, 8, 8, 8), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    image.meta["filename_or_obj"] = path
    return {"image": image, "image_path": path}


def test_spacing_leaves_the_other_keys_alone_and_can_be_inverted():
    spacing = LoneSpacingd(keys="image", pixdim=(1, 1, 1))
    with pytest.raises(AttributeError):
        Spacingd(keys="image", pixdim=(1, 1, 1))(scan())  # MONAI mends it one day: then ours can go
    data = spacing(scan())
    assert data["image"].shape[1] > 8 and data["image_path"] == "scan.nii.gz"
    plain = {"image": scan()["image"]}
    torch.testing.assert_close(spacing(plain)["image"], Spacingd(keys="image", pixdim=(1, 1, 1))(plain)["image"])
    pipeline = Compose([spacing])
    data = pipeline(scan())
    inverted = Invertd("pred", pipeline, orig_keys="image")({**data, "pred": data["image"].clone()})
    assert inverted["pred"].shape == (1, 8, 8, 8)
