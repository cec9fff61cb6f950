# SPDX-License-Identifier: Apache-2.0
"""The middle of a scan, for organs that are always imaged there."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import CenterSpatialCropd

from ...errors import DataError

__all__ = ["CenterCropd", "center_crop_voxels"]

logger = logging.getLogger(__name__)


def center_crop_voxels(size: Sequence[float | None], pixdim: Sequence[float]) -> list[int]:
    """Voxels of the middle along each axis, -1 for all of them, as ``roi_size`` of MONAI's ``CenterSpatialCrop``.

    Args:
        size: of the middle along each axis, in mm; None or 0: the whole axis.
        pixdim: of the grid, in mm, along the same axes.

    Raises:
        DataError: when a size is no length, or there are not as many as axes.

    Example:
        >>> center_crop_voxels([256.0, 256.0, 0], [1.6, 1.6, 10.0])
        [160, 160, -1]

    Source: ours.
    """
    if not (
        isinstance(size, list | tuple)
        and len(size) == len(pixdim)
        and all(length is None or (isinstance(length, int | float) and 0 <= length < inf) for length in size)
    ):
        raise DataError(
            f"center_crop {size!r}: give {len(pixdim)} lengths in mm, one for each axis, such as "
            f"{[256.0] * (len(pixdim) - 1) + [0]}, where 0 is the whole axis; or 0 alone for whole scans."
        )
    return [max(round(length / step), 1) if length else -1 for length, step in zip(size, pixdim, strict=True)]


class CenterCropd(CenterSpatialCropd):
    """Keep the middle of a scan that is on the networks' grid; outside of it there is background.

    For organs that are imaged in the middle, such as a heart in short-axis slices: the networks need not look at what
    lies around, so that for the same work their voxels can be smaller. MONAI's ``CenterSpatialCropd`` in millimetres,
    but a label that is cut is told of, and the inverse of probabilities is sure of background where nothing was seen.

    Args:
        keys: of the images and labels, ``MetaTensor`` [C, *S].
        size: of the middle along each axis, in mm; None or 0: the whole axis.
        pixdim: voxel size of the grid in mm, for each axis.
        label_key: the label [1, *S], of which it is said how much of its structures lies outside.
        allow_missing_keys: whether items may lack a key.

    Raises:
        DataError: when a size is no length, or there are not as many as axes.

    Example:
        >>> CenterCropd("image", [32.0, 32.0, 0], (2.0, 2.0, 5.0))({"image": torch.zeros(1, 24, 20, 9)})["image"].shape
        torch.Size([1, 16, 16, 9])

    Source: ours; nnU-Net and the benchmarks of the left atrium crop as well, these around the label.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[float | None],
        pixdim: Sequence[float],
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, center_crop_voxels(size, pixdim), allow_missing_keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Return the item with its images and labels cropped."""
        item = super().__call__(data, lazy)
        if self.label_key in self.keys and self.label_key in data:
            self._tell_what_is_cut(data[self.label_key], item[self.label_key])
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its probabilities [C, *S] on the whole grid; a mask [1, *S] gets zeros around it."""
        item = super().inverse(data)
        for key in self.key_iterator(item):
            if len(item[key]) > 1:
                item[key][0] += (item[key] == 0).all(0)  # padding alone is zero for all classes
        return item

    @staticmethod
    def _tell_what_is_cut(whole: torch.Tensor, cropped: torch.Tensor) -> None:
        total, kept = (int((one > 0).sum()) for one in (whole, cropped))
        if kept < total:
            name = getattr(whole, "meta", {}).get("filename_or_obj", "a label")
            logger.warning(
                "%s: %.1f %% of its structures lie outside the middle that is trained on, and predictions will have "
                "background there. Give a larger center_crop, or 0 for whole scans.",
                *(name, max(100 * (total - kept) / total, 0.1)),
            )
