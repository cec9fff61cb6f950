# SPDX-License-Identifier: Apache-2.0
"""Scans whose pixel size is not known, brought to one scale by their field of view."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys

from ...errors import DataError

__all__ = ["FieldOfViewd", "field_of_view_scale"]


def field_of_view_scale(
    shape: Sequence[int], spacing: Sequence[float], length: float, pixdim: Sequence[float]
) -> np.ndarray:
    """By what a scan's voxels must grow along each axis for the longer side of its slices to be ``length`` mm.

    A slice lies across the axis that has the longest voxels in ``pixdim``; where they are all alike, the whole scan
    counts as the slice.

    Args:
        shape: of the scan, voxels along each axis.
        spacing: of its voxels along the same axes, as the file has it.
        length: of the longer side of a slice, in mm.
        pixdim: voxel size of the grid that comes next, along the same axes.

    Example:
        >>> field_of_view_scale((256, 200, 10), (1.5, 1.5, 10.0), 384.0, (1.5, 1.5, 10.0))
        array([1., 1., 1.])
        >>> field_of_view_scale((512, 428, 9), (1.5, 1.5, 10.0), 384.0, (1.5, 1.5, 10.0))
        array([0.5, 0.5, 1. ])

    Source: ours.
    """
    longest = max(pixdim)
    in_slice = np.array([step < longest for step in pixdim]) if min(pixdim) < longest else np.ones(len(pixdim), bool)
    sides = np.multiply(shape, spacing)
    return np.where(in_slice, length / sides[in_slice].max(), 1.0)


class FieldOfViewd(MapTransform, InvertibleTransform):
    """Take the longer side of every slice for ``length`` mm long; voxels stay, their size in the slice changes.

    For scans whose files do not know their pixel size, because it was lost or never there: a heart that one file shows
    in 25 pixels and another in 100 is then about as large in both, as people are imaged with what surrounds the organ.
    It goes before the transforms that resample, and its inverse gives the scan its own geometry back.

    Args:
        keys: of the images and labels, ``MetaTensor`` [C, *S].
        length: in mm.
        pixdim: voxel size in mm to which they will be resampled, for each axis: says which axis crosses the slices
            (:func:`field_of_view_scale`).
        allow_missing_keys: whether items may lack a key.

    Raises:
        DataError: when the length is not a number above 0.

    Example:
        >>> image = MetaTensor(torch.zeros(1, 512, 428, 9), affine=torch.diag(torch.tensor([1.5, 1.5, 10.0, 1.0])))
        >>> FieldOfViewd("image", 384.0, (1.5, 1.5, 10.0))({"image": image})["image"].pixdim
        tensor([ 0.7500,  0.7500, 10.0000], dtype=torch.float64)

    Source: ours; where pixel sizes are lost, the semi-supervised benchmarks resize every slice to 256 x 256 pixels.
    """

    def __init__(
        self, keys: KeysCollection, length: float, pixdim: Sequence[float], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not (isinstance(length, int | float) and 0 < length < float("inf")):
            raise DataError(
                f"field_of_view {length!r}: give the length in mm that the longer side of a slice counts as, such as "
                "384, or 0 where the files know their pixel size."
            )
        self.length, self.pixdim = float(length), tuple(float(step) for step in pixdim)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the affines of its images and labels scaled in the slice."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            scale = field_of_view_scale(image.shape[1:], image.pixdim.tolist(), self.length, self.pixdim)
            grown = torch.ones(len(image.affine)).to(image.affine)
            grown[: len(scale)] = torch.from_numpy(scale)
            item[key] = _with_affine(image, image.affine * grown)
            self.push_transform(item[key], extra_info={"own_affine": image.affine})
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the affines that its images had."""
        item = dict(data)
        for key in self.key_iterator(item):
            traced = self.pop_transform(item[key])
            item[key] = _with_affine(item[key], traced[TraceKeys.EXTRA_INFO]["own_affine"])
        return item


def _with_affine(image: MetaTensor, affine: torch.Tensor) -> MetaTensor:
    """The same voxels elsewhere; the image that was given stays as it was."""
    placed = MetaTensor(image.as_tensor(), meta=dict(image.meta), applied_operations=list(image.applied_operations))
    placed.affine = affine
    return placed
