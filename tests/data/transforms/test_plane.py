# SPDX-License-Identifier: Apache-2.0
"""A slice as an image, the way up that viewers show it, and a result of it back on the scan's grid."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd

from scripts.data import DataError, PlaneOfVolumed
from scripts.data.transforms.plane import volume_of_plane

PNG = np.diag([1.0, -1.0, 1.0, 1.0])
NIFTI = np.array([[0.5, 0, 0, 7], [0, 0.8, 0, 9], [0, 0, 3, 1], [0, 0, 0, 1]])
CORONAL = np.array(
    [[-0.5, 0, 0, 7], [0, 0, 3, 9], [0, -0.8, 0, 1], [0, 0, 0, 1]]
)  # rows downwards, as DICOM stores them


def volume(affine, shape=(1, 6, 4, 1)):
    voxels = torch.arange(float(np.prod(shape))).reshape(shape)
    meta = {"original_affine": affine.copy(), "filename_or_obj": "scan.nii.gz"}
    return MetaTensor(voxels, affine=torch.tensor(affine), meta=meta)


@pytest.mark.parametrize(("affine", "down"), [(PNG, True), (NIFTI, False), (CORONAL, True)])
def test_every_plane_is_seen_the_same_way_up(affine, down):
    scan = volume(affine)
    plane = PlaneOfVolumed("image")({"image": scan})["image"]
    assert plane.shape == (1, 6, 4) and plane.affine.shape == (3, 3)
    lengths = np.linalg.norm(affine[:3, :2], axis=0)
    assert np.allclose(plane.pixdim, lengths)
    turned = Orientationd("image", axcodes="RAS", labels=None)({"image": plane})["image"]
    expected = scan[0, :, :, 0].numpy()
    assert np.array_equal(turned[0].numpy(), expected[:, ::-1] if down else expected)  # second axis upwards, first kept


@pytest.mark.parametrize("affine", [PNG, NIFTI, CORONAL])
def test_a_result_returns_to_the_scan(affine):
    scan = volume(affine, (1, 8, 6, 1))
    steps = Compose(
        [
            PlaneOfVolumed("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(1.0, 1.0), mode="nearest"),
        ]
    )
    item = steps({"image": scan})
    where = torch.zeros(item["image"].shape)
    where[0, 0, -1] = 1  # left end of the topmost line
    item["pred"] = MetaTensor(where)
    item = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=True)(item)
    voxels, back = volume_of_plane(item["pred"])
    assert voxels.shape == (8, 6, 1) and np.allclose(back, affine)
    top = 0 if affine is not NIFTI else 5
    assert voxels[0, top, 0] == 1 and voxels[-1, :, 0].sum() == 0 and voxels[:, 5 - top, 0].sum() == 0


def test_several_slices_are_refused():
    with pytest.raises(DataError, match=r"scan.nii.gz: 2 slices, but the networks take images of one"):
        PlaneOfVolumed("image")({"image": volume(PNG, (1, 4, 4, 2))})


def test_a_volume_stays_as_it_is():
    voxels, affine = volume_of_plane(volume(NIFTI, (1, 4, 4, 3)))
    assert voxels.shape == (4, 4, 3) and np.allclose(affine, NIFTI)
