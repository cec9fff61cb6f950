# SPDX-License-Identifier: Apache-2.0
"""From what a label file holds to class numbers: whole numbers, the user's own values, a channel for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DataError

__all__ = ["VALUES", "class_of", "from_one_hot", "parse_values", "to_classes", "to_values"]

VALUES = "values"
"""Key of a datalist, and of its labelled cases: the value that each class has in the label files."""

TOLERANCE = 1e-3
"""How far a label's value may lie from a whole number, as scaled and compressed files have them."""


def parse_values(given: Any, where: str) -> list[float] | None:
    """Check the values of the classes 0, 1, ... in label files; None where there are none (ours).

    Raises:
        DataError: when they are no numbers, or two are equal.
    """
    if given is None:
        return None
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    if len(values) < 2 or any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in values):
        raise DataError(f"{where} {given!r}: name the value of the background and of every class, e.g. 0,1,2,4.")
    if not np.isfinite(values).all() or np.diff(np.sort(values)).min() <= 2 * TOLERANCE:
        raise DataError(f"{where} {given!r}: every class needs a value of its own. Correct them.")
    return [int(one) if float(one).is_integer() else float(one) for one in values]


def class_of(value: float, values: Sequence[float] | None) -> int | None:
    """The class that a value in a label file stands for; None where it stands for none (ours)."""
    if values is None:
        return round(value) if np.isfinite(value) and abs(value - round(value)) <= TOLERANCE else None
    return next((number for number, one in enumerate(values) if abs(value - one) <= TOLERANCE), None)


def to_classes(voxels: np.ndarray, values: Sequence[float] | None = None) -> np.ndarray:
    """Class numbers in the place of the values of a label file; what stands for no class stays as it is (ours).

    Args:
        voxels: of a label, any shape.
        values: of the classes 0, 1, ...; None: the class numbers themselves, which may be off by a rounding.
    """
    if values is not None:
        found = voxels.astype(np.float32)
        for number, value in enumerate(values):
            found[np.abs(voxels.astype(np.float64) - value) <= TOLERANCE] = number
        return found
    if voxels.dtype.kind != "f":
        return voxels
    whole = np.rint(voxels)
    return np.where(np.abs(voxels - whole) <= TOLERANCE, whole, voxels)


def to_values(classes: np.ndarray, values: Sequence[float] | None) -> np.ndarray:
    """The user's values in the place of class numbers, in the smallest type that has them all (ours)."""
    table = np.arange(int(classes.max(initial=0)) + 1) if values is None else np.asarray(values)
    kinds = (np.uint8, np.int16, np.int32, np.float32)
    kind = next(kind for kind in kinds if kind is np.float32 or (table == table.astype(kind)).all())
    return table.astype(kind)[classes.astype(np.intp)]


def from_one_hot(channels: np.ndarray, path: str) -> np.ndarray:
    """Class numbers ``[X, Y, Z]`` of a label with a channel for each class, ``[C, X, Y, Z]``, of zeros and ones.

    Where every voxel is in a channel, the first one is the background; else the channels are the classes from 1 on.

    Raises:
        DataError: when a voxel is in two channels, or a value is neither 0 nor 1.

    Source: ours.
    """
    inside = np.abs(channels - 1) <= TOLERANCE
    if not (inside | (np.abs(channels) <= TOLERANCE)).all():
        raise DataError(
            f"{path}: a label of {len(channels)} channels that are not all 0 and 1. Save one volume of class numbers."
        )
    in_any = inside.sum(0)
    if in_any.max() > 1:
        raise DataError(
            f"{path}: {int((in_any > 1).sum())} voxels are in several of its {len(channels)} channels. Structures that "
            "overlap are not supported: save one volume in which each voxel has one class."
        )
    classes = inside.argmax(0).astype(np.uint8)
    return classes if in_any.min() == 1 else np.where(in_any == 1, classes + 1, 0).astype(np.uint8)
