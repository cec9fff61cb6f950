# SPDX-License-Identifier: Apache-2.0
"""Lay a label onto its image's voxels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ...errors import DataError
from ..io.formats.grids import placement
from ..io.formats.names import is_planar
from ..io.label_values import VALUES, from_one_hot, to_classes

__all__ = ["LabelOnImaged"]


class LabelOnImaged(MapTransform):
    """Give a label its image's order of axes, where both have the same voxels in space.

    A label that was drawn on a converted copy often has an axis reversed, and 3D Slicer saves the box of its segments
    only: outside it is background. Both are laid over exactly, without interpolation. A channel for each class becomes
    one channel of class numbers, and the values that the datalist names (``values``, taken out of the item) become the
    numbers 0, 1, 2, ... Other labels stay as they are. It goes right behind ``EnsureChannelFirstd``, before the image
    is turned or resampled.

    Args:
        keys: of the labels, ``MetaTensor`` [1, X, Y, Z], or [C, X, Y, Z] with a channel for each class.
        image_key: of the image, ``MetaTensor`` [C, X, Y, Z].
        allow_missing_keys: whether items may lack a key.

    Raises:
        DataError: when the label's voxels are not the image's.

    Example:
        >>> LabelOnImaged("label")(item)["label"].shape[1:] == item["image"].shape[1:]
        True

    Source: ours.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        values = item.pop(VALUES, None)
        for key in self.key_iterator(item):
            item[key] = self._laid(_numbered(item[key], values), item[self.image_key])
        return item

    def _laid(self, label: MetaTensor, image: MetaTensor) -> MetaTensor:
        shapes = tuple(label.shape[1:]), tuple(image.shape[1:])
        affines = [one.affine.double().numpy() for one in (label, image)]
        if is_planar(str(label.meta.get("filename_or_obj"))):  # it does not say where it lies
            affines[0] = affines[1]
        place = placement(shapes[0], affines[0], shapes[1], affines[1])
        if place is None:
            raise DataError(f"{label.meta.get('filename_or_obj')}: not on its image's voxels. Resample it onto them.")
        if place.changes_nothing and shapes[0] == shapes[1]:
            return label
        voxels = np.ascontiguousarray(place.apply(label[0].numpy()))
        return MetaTensor(torch.from_numpy(voxels)[None], affine=image.affine.clone(), meta=label.meta)


def _numbered(label: MetaTensor, values: Sequence[float] | None) -> MetaTensor:
    """A label [1, X, Y, Z] of class numbers; the same object where it is one already."""
    stored = label.numpy()
    if len(stored) > 1:
        voxels = from_one_hot(stored, str(label.meta.get("filename_or_obj")))[None]
    else:
        voxels = to_classes(stored, values)
        if values is None and np.array_equal(voxels, stored):
            return label
    return MetaTensor(torch.from_numpy(voxels.astype(stored.dtype, copy=False)), affine=label.affine, meta=label.meta)
