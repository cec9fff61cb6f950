# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.data import DataError, LabelOnImaged

LABEL = torch.arange(2 * 3 * 4).reshape(1, 2, 3, 4) % 3
IMAGE = MetaTensor(torch.rand(1, 2, 3, 4), affine=torch.diag(torch.tensor([-1.0, -1, 2, 1])))


def test_a_reversed_axis_is_turned_back():
    affine = torch.tensor([[-1.0, 0, 0, 0], [0, 1, 0, -2], [0, 0, 2, 0], [0, 0, 0, 1]])
    found = LabelOnImaged("label")({"image": IMAGE, "label": MetaTensor(LABEL.flip(2), affine=affine)})["label"]
    assert (found == LABEL).all() and np.allclose(found.affine, IMAGE.affine) and found.dtype == LABEL.dtype


def test_a_label_in_place_is_the_same_object_and_none_is_needed():
    label = MetaTensor(LABEL, affine=IMAGE.affine)
    assert LabelOnImaged("label")({"image": IMAGE, "label": label})["label"] is label
    assert LabelOnImaged("label", allow_missing_keys=True)({"image": IMAGE}) == {"image": IMAGE}


def test_a_label_elsewhere_is_an_error():
    label = MetaTensor(LABEL, affine=torch.diag(torch.tensor([-1.0, -1, 3, 1])))
    with pytest.raises(DataError, match="not on its image's voxels"):
        LabelOnImaged("label")({"image": IMAGE, "label": label})


@pytest.mark.parametrize("values", [[0, 1, 4], [0, 0.5, 255]])
def test_values_of_ones_own_become_class_numbers(values):
    stored = torch.as_tensor(np.asarray(values)[LABEL.numpy()], dtype=torch.float32)
    item = {"image": IMAGE, "label": MetaTensor(stored, affine=IMAGE.affine), "values": values}
    found = LabelOnImaged("label")(item)
    assert set(found) == {"image", "label"} and (found["label"] == LABEL).all()
    assert np.allclose(found["label"].affine, IMAGE.affine)


def test_a_channel_for_each_class_becomes_one_of_class_numbers():
    stored = torch.cat([number == LABEL for number in range(3)]).float()
    found = LabelOnImaged("label")({"image": IMAGE, "label": MetaTensor(stored, affine=IMAGE.affine)})["label"]
    assert found.shape == LABEL.shape and (found == LABEL).all()
