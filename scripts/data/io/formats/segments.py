# SPDX-License-Identifier: Apache-2.0
"""Segmentations of 3D Slicer: which segment each value is, and layers of segments laid into one label."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ....errors import DataError
from .headers import NRRD_SUFFIXES, header_of

__all__ = ["Segment", "flatten", "segments_of"]

_REMEDY = "In 3D Slicer, export it as one labelmap with the scan as reference volume."


class Segment(NamedTuple):
    """A segment of a ``.seg.nrrd``.

    Attributes:
        name: that the user gave it.
        value: of its voxels in the label that the file is read as.
        stored: the value of its voxels in its layer.
        layer: in which it lies; segments that were drawn over each other lie in several.
    """

    name: str
    value: int
    stored: int
    layer: int


def segments_of(path: str) -> list[Segment]:
    """The segments that a ``.seg.nrrd`` of 3D Slicer lists; none for any other file.

    Their values are those of the file, but 1, 2, ... in their order where two layers have the same one.

    Raises:
        DataError: when a value or a layer is no number, or the axis of the layers is not named.

    Source: ours; the fields are those of 3D Slicer's "Segmentations" (vtkMRMLSegmentationStorageNode).
    """
    if not path.lower().endswith(NRRD_SUFFIXES):
        return []
    header = header_of(path)
    sizes = header.get("sizes", "").split()
    numbers = sorted({int(match[1]) for key in header if (match := re.match(r"segment(\d+)_id$", key))})
    if numbers and len(sizes) == 4 and "kinds" not in header:
        raise DataError(f"{path}: {sizes[0]} layers, and no kinds in its header to name their axis. {_REMEDY}")
    try:
        found = [
            (
                header.get(f"segment{number}_name", f"segment {number}"),
                int(header.get(f"segment{number}_labelvalue", "1")),
                int(header.get(f"segment{number}_layer", "0")),
            )
            for number in numbers
        ]
    except ValueError as error:
        raise DataError(f"{path}: a segment whose value or layer is no number ({error}). Export it again.") from error
    in_layers = {(stored, layer) for _, stored, layer in found}
    kept = len({stored for stored, _ in in_layers}) == len(in_layers)
    values = (stored if kept else number for number, (_, stored, _) in enumerate(found, 1))
    return [Segment(name, value, stored, layer) for (name, stored, layer), value in zip(found, values, strict=True)]


def flatten(layers: np.ndarray, path: str) -> np.ndarray:
    """One label ``[...]`` of the layers ``[C, ...]`` of a segmentation, with the values of :func:`segments_of`.

    Raises:
        DataError: when a voxel is in two segments, or in none of those that the file lists.

    Source: ours.
    """
    segments, count = segments_of(path), len(layers)
    flat = np.zeros(layers.shape[1:], np.int32)
    owner = np.zeros(layers.shape[1:], np.int32)
    named = np.zeros(layers.shape, bool)
    for number, segment in enumerate(segments, 1):
        if not 0 <= segment.layer < count:
            raise DataError(
                f"{path}: {count} layers, but segment {segment.name!r} is in number {segment.layer}. {_REMEDY}"
            )
        inside = layers[segment.layer] == segment.stored
        named[segment.layer] |= inside
        if (twice := inside & (owner > 0)).any():
            other = segments[owner[twice][0] - 1].name
            raise DataError(
                f"{path}: {count} layers, its segments overlap: {int(twice.sum())} voxels are in {other!r} and "
                f"{segment.name!r}, and a voxel has one class here. {_REMEDY}"
            )
        flat[inside], owner[inside] = segment.value, number
    if unnamed := int(((layers != 0) & ~named).sum()):
        raise DataError(f"{path}: {count} layers, and {unnamed} voxels in them belong to no segment. {_REMEDY}")
    return flat.astype(np.uint8 if flat.max(initial=0) < 256 else np.int16)
