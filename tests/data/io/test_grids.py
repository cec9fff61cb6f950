# SPDX-License-Identifier: Apache-2.0
"""The same voxels in another order are laid over exactly; anything else is not."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff

from scripts.data.io.formats.grids import placement

SHAPE = (5, 6, 7)
VOXELS = np.arange(np.prod(SHAPE)).reshape(SHAPE)
AFFINE = np.array([[0, -0.5, 0.1, 12.0], [0.7, 0, 0, -3.0], [0, 0, 2.0, 40.0], [0, 0, 0, 1]])
ORDERS = [
    np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(map(str, order.ravel())))
def test_all_48_orders_are_undone_as_nibabel_undoes_them(order):
    turned = apply_orientation(VOXELS, order)
    affine = AFFINE @ inv_ornt_aff(order, SHAPE)
    place = placement(turned.shape, affine, SHAPE, AFFINE)
    assert (place.apply(turned) == VOXELS).all()
    assert place.covers(turned.shape)
    assert place.changes_nothing == (order.tolist() == axcodes2ornt("RAS").astype(int).tolist())


def test_a_box_of_it_is_put_where_it_was():
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ [1, 2, 3]
    place = placement((2, 3, 4), affine, SHAPE, AFFINE)
    expected = np.zeros(SHAPE, int)
    expected[1:3, 2:5, 3:7] = VOXELS[1:3, 2:5, 3:7]
    assert (place.apply(VOXELS[1:3, 2:5, 3:7]) == expected).all() and not place.covers((2, 3, 4))


@pytest.mark.parametrize(
    "other",
    [
        AFFINE @ np.diag([1, 1, 1.05, 1]),
        AFFINE @ nibabel.affines.from_matvec(np.eye(3), [0.3, 0, 0]),
        AFFINE @ nibabel.affines.from_matvec(np.eye(3), [1, 0, 0]),
        AFFINE @ np.array([[0.98, -0.17, 0, 0], [0.17, 0.98, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
    ids=["size", "part of a voxel", "outside", "turned"],
)
def test_voxels_elsewhere_are_not_laid_over(other):
    assert placement(SHAPE, other, SHAPE, AFFINE) is None
