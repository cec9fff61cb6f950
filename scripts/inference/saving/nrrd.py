# SPDX-License-Identifier: Apache-2.0
"""A segmentation as ``.seg.nrrd``, which 3D Slicer opens with the names of its segments."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.ndimage import find_objects

from ...files import replace_file

__all__ = ["save_seg_nrrd"]

LPS = np.diag([-1.0, -1.0, 1.0])
"""From RAS, in which affines are, to the system in which NRRD files of 3D Slicer are."""


def save_seg_nrrd(voxels: np.ndarray, affine: np.ndarray, path: Path, labels: Mapping[int, str]) -> None:
    """Write class numbers as a segmentation of 3D Slicer, whole or not at all (ours).

    Args:
        voxels: class numbers [X, Y, Z], 8 bit.
        affine: voxel indices to RAS+ mm.
        path: the file, ``NAME.seg.nrrd``.
        labels: {class number: name}; 0 is the background.
    """
    directions, origin = LPS @ affine[:3, :3], LPS @ affine[:3, 3]
    header = [
        "NRRD0004",
        "type: unsigned char",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, voxels.shape)),
        "space directions: " + " ".join(_vector(column) for column in directions.T),
        "kinds: domain domain domain",
        "encoding: gzip",
        f"space origin: {_vector(origin)}",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    boxes = find_objects(voxels, max(labels))
    for number, (value, name) in enumerate(sorted((v, n) for v, n in labels.items() if v > 0)):
        segment = {
            "ID": f"Segment_{value}",
            "Name": " ".join(name.split()),
            "LabelValue": value,
            "Layer": 0,
            "Extent": _extent(boxes[value - 1], voxels.ndim),
        }
        header += [f"Segment{number}_{key}:={text}" for key, text in segment.items()]
    with replace_file(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n\n").encode())
        file.write(gzip.compress(voxels.astype(np.uint8).tobytes(order="F"), 6))


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _extent(box: tuple[slice, ...] | None, axes: int) -> str:
    """First and last voxel along each axis; an empty segment ends before it starts."""
    ends = [(0, -1)] * axes if box is None else [(side.start, side.stop - 1) for side in box]
    return " ".join(f"{first} {last}" for first, last in ends)
