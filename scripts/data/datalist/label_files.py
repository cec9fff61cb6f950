# SPDX-License-Identifier: Apache-2.0
"""What label files hold, before anything is known of their classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...errors import DataError
from ...progress import track
from ..io.formats.hdf5 import DATASET_MARK, H5_SUFFIXES
from ..io.formats.segments import segments_of
from ..io.label_values import class_of, from_one_hot
from ..io.segment_names import classes_by_name
from ..io.volumes import Volume, open_volume

__all__ = ["names_of_values", "values_in", "voxels_of"]

MOST_CLASSES = 256
MOST_FRACTIONS = 16


def values_in(files: Sequence[str], progress: bool = True) -> dict[str, set[float]]:
    """The values in each label file (ours).

    Raises:
        DataError: when one cannot be read, or has so many values that it is no label.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = track(pool.map(_values_of, files), len(files), "Reading labels", progress)
        return dict(zip(files, found, strict=True))


def _values_of(label: str) -> set[float]:
    path = f"{label}{DATASET_MARK}label" if label.lower().endswith(H5_SUFFIXES) else label
    values: set[float] = set()
    with open_volume(path) as volume:
        for slab in volume.slabs() if volume.channels == 1 else [from_one_hot(voxels_of(volume), path)]:
            values |= {_whole(float(value)) for value in np.unique(slab)}
            fractional = sum(value % 1 != 0 for value in values)  # also of NaN
            if len(values) > MOST_CLASSES or fractional > MOST_FRACTIONS:
                raise DataError(f"{path}: no label file: its values are no class numbers. Is it an image?")
            if not np.isfinite(list(values)).all():
                raise DataError(f"{path}: NaN or infinite label values. Save it anew as class numbers.")
        if volume.partial:
            values.add(0)  # outside of the segments' box
    return values


def voxels_of(volume: Volume) -> np.ndarray:
    """All voxels ``[C, X, Y, Z]`` of an opened volume."""
    whole = np.concatenate(list(volume.slabs()), axis=2)
    return np.stack(np.split(whole, volume.channels, axis=2))


def _whole(value: float) -> float:
    """The whole number that a value is but for a rounding, else the value."""
    number = class_of(value, None)
    return value if number is None else number


def names_of_values(
    found: Mapping[str, set[float]], values: Sequence[float] | None, ignore: Iterable[float] = ()
) -> dict[int, str]:
    """Names of the classes, from the values in all label files, and from the segments' names where they have any.

    Where the files have different values for one structure, and segments' names, the names say which class is which.

    Args:
        found: from :func:`values_in`.
        values: of the classes 0, 1, ...; None: these numbers themselves.
        ignore: values that are no class.

    Raises:
        DataError: when a value is no class, there is a gap, or one value has two names.

    Source: ours.
    """
    if values is None and (by_name := classes_by_name(found)) is not None:
        return by_name
    read = sorted(set().union(*found.values()) - set(ignore))
    if values is None:
        if read != list(range(len(read))) or len(read) < 2:
            raise DataError(_gap(read))
        values = read
    elif stray := [value for value in read if class_of(value, values) is None]:
        raise DataError(f"The label files hold the values {stray[:8]}, which are not in --values. Add them there.")
    names = {number: "background" if number == 0 else f"class {number}" for number in range(len(values))}
    given: dict[int, tuple[str, str]] = {}
    for path in found:
        for segment in segments_of(path):
            number = class_of(segment.value, values)
            name, other = given.setdefault(number, (segment.name, path))
            if name != segment.name:
                raise DataError(
                    f"{path}: value {segment.value} is {segment.name}, but {name} in {other}. Give every structure the "
                    "same value in all files."
                )
    return names | {number: name for number, (name, _) in given.items() if number}


def _gap(read: Sequence[float]) -> str:
    listed = ",".join(f"{value:g}" for value in sorted({0, *read}))
    if len(read) > 16 or any(value != int(value) for value in read):
        listed = "0,..."
    shown = ", ".join(f"{value:g}" for value in read[:8])
    return (
        f"The label files hold the values {shown}; they must be 0 (background), 1, 2, ... without "
        f"a gap. Say which value each class has, with --values {listed}, or give --names if some class has no voxel in "
        f"these cases, or --ignore {max(read):g} if the voxels of that value were not annotated."
    )
