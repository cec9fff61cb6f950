# SPDX-License-Identifier: Apache-2.0
"""Images of one slice for networks of two dimensions, and their results back on the scan's own grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ...errors import DataError

__all__ = ["PlaneOfVolumed", "volume_of_plane"]


class PlaneOfVolumed(MapTransform):
    """Make an image [C, X, Y] of a volume of one slice, [C, X, Y, 1].

    The plane keeps its axes as they are stored, whichever way it lies in the patient: the first one counts as right;
    the second one as up or down, as most of it does in the patient, so that PNG and NIfTI are seen the same way up. It
    goes right before ``Orientationd``. :func:`volume_of_plane` leads back.

    Args:
        keys: of the images and labels, ``MetaTensor``.
        allow_missing_keys: whether items may lack a key.

    Raises:
        DataError: when a volume has several slices.

    Example:
        >>> PlaneOfVolumed("image")({"image": MetaTensor(torch.zeros(1, 8, 8, 1))})["image"].shape
        torch.Size([1, 8, 8])

    Source: ours.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._plane(item[key])
        return item

    def _plane(self, volume: MetaTensor) -> MetaTensor:
        if volume.shape[-1] != 1:
            name = volume.meta.get("filename_or_obj")
            raise DataError(f"{name}: {volume.shape[-1]} slices, but the networks take images of one.")
        axes = volume.affine[:3, :2].double()
        lengths = axes.norm(dim=0).tolist()
        down = bool(axes[axes[:, 1].abs().argmax(), 1] < 0)
        plane = volume[..., 0]
        plane.affine = torch.diag(torch.tensor([lengths[0], -lengths[1] if down else lengths[1], 1.0]).double())
        return plane


def volume_of_plane(result: MetaTensor) -> tuple[np.ndarray, np.ndarray]:
    """The voxels ``[X, Y, Z]`` of a result [1, *S] on its scan's grid, and the affine [4, 4] of that grid (ours).

    Args:
        result: on the grid of the scan that its metadata names; of a scan of one slice it may be the plane.
    """
    voxels = result[0].cpu().numpy()
    if voxels.ndim == 3:
        return voxels, result.affine.cpu().numpy()
    return voxels[..., None], np.asarray(result.meta["original_affine"], dtype=np.float64)
