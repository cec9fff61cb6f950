# SPDX-License-Identifier: Apache-2.0
"""What a client draws and clicks to say where a structure is and where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import SimpleITK
from fastapi import HTTPException

from .cut import BACKGROUND, FOREGROUND

KINDS = {"background": BACKGROUND, "foreground": FOREGROUND}

CLICK = 1
"""Half the side of the cube of voxels that a click stands for."""


def read_strokes(
    request: Mapping[str, Any], structures: Mapping[str, int], structure: str, scan: SimpleITK.Image
) -> tuple[np.ndarray, np.ndarray | None]:
    """Strokes and clicks of a request, and the segmentation that they are to correct.

    Args:
        request: ``label``, file of a volume on the scan's grid with both. ``label_info`` names its values, as 3D Slicer
            does: ``foreground_scribbles``, ``background_scribbles`` and the structures. Without it a structure has the
            server's value, and the two after the highest are background and foreground, as in MONAI Label.
            ``foreground`` and ``background``, lists of clicks [i, j, k], voxels of the scan.
        structures: name to value.
        structure: which one is corrected.
        scan: the scan.

    Returns:
        Strokes by kind [H,W,D], and the segmentation of the structure [H,W,D], None where the client sent none.

    Raises:
        HTTPException: 400 when there is neither a stroke nor a click, or a click that is none; 422 when the volume
            cannot be read or has another grid.
    """
    strokes, current = np.zeros(scan.GetSize(), np.uint8), None
    if request.get("label"):
        volume = _read(request["label"], scan)
        values = _values(request.get("label_info"), structures)
        for kind, mark in KINDS.items():
            strokes[np.isin(volume, values.get(f"{kind}_scribbles", []))] = mark
        drawn = np.isin(volume, values.get(structure, []))
        # where a stroke lies over it, the volume no longer tells
        current = drawn if drawn.any() else None
    for kind, mark in KINDS.items():
        for click in _clicks(request.get(kind), kind, scan):
            strokes[tuple(slice(max(index - CLICK, 0), index + CLICK + 1) for index in click)] = mark
    if not strokes.any():
        raise HTTPException(400, "Nothing to correct: draw a foreground or background scribble, or click, then update.")
    return strokes, current


def _values(info: Any, structures: Mapping[str, int]) -> dict[str, list[int]]:
    if not info:
        last = max(structures.values())
        named = {**structures, "background_scribbles": last + 1, "foreground_scribbles": last + 2}
        return {name: [value] for name, value in named.items()}
    try:
        return {str(one["name"]): [int(one["id"] if "id" in one else one["idx"])] for one in info}
    except (TypeError, KeyError, ValueError) as error:
        raise HTTPException(
            400, f'label_info is {info!r}. Give a list such as [{{"name": "liver", "id": 1}}].'
        ) from error


def _read(file: str, scan: SimpleITK.Image) -> np.ndarray:
    try:
        volume = SimpleITK.ReadImage(str(file))
    except RuntimeError as error:
        raise HTTPException(422, "The scribbles cannot be read. Send them as a volume, e.g. .nii.gz.") from error
    if volume.GetSize() != scan.GetSize():
        raise HTTPException(
            422, f"The scribbles have {volume.GetSize()} voxels, the scan {scan.GetSize()}. Draw them on this scan."
        )
    return SimpleITK.GetArrayFromImage(volume).transpose()


def _clicks(points: Any, kind: str, scan: SimpleITK.Image) -> list[tuple[int, ...]]:
    size = scan.GetSize()
    for point in points or []:
        if (
            not isinstance(point, list)
            or len(point) != len(size)
            or any(isinstance(one, bool) or not isinstance(one, int) for one in point)
            or not all(0 <= index < length for index, length in zip(point, size, strict=True))
        ):
            raise HTTPException(400, f"{kind} {point!r}: no voxel [i, j, k] of the scan, which has {size}.")
    return [tuple(point) for point in points or []]
