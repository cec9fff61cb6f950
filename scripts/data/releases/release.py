# SPDX-License-Identifier: Apache-2.0
"""What :func:`prepare` needs to know of a public data set as its owners release it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ..io.volumes import open_volume


class Scan(NamedTuple):
    """A scan with its label: ``image`` and ``label`` ``[X, Y, Z]``, ``affine`` from voxel indices to RAS+ mm."""

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Release:
    """A public data set in its raw form (ours).

    Attributes:
        title: for messages.
        classes: names of the label values 0, 1, ...
        layout: which files are looked for, for messages.
        find: ``{case: (image, label)}`` below a folder, by the case names that the benchmark's lists use.
        read: the scan of such a pair as released: whole, intensities untouched, label values as in ``classes``.
        benchmark: the scan as the benchmark prepares it; the second argument is the case's name. None: it does not.
        oracle: whether the benchmark's preparation looks at the label, in test scans too.
        labeled: how many cases at the start of the benchmark's train.list are labelled; patients with ``patients``.
        copies: cases that are the same scan as another one; the benchmark has them nevertheless.
        patients: for releases with several scans of a patient, {train, val, test: cases} where no lists are given,
            from the cases' names and their files; a case's name is then that of its patient, ``_`` and the scan.
    """

    title: str
    classes: tuple[str, ...]
    layout: str
    find: Callable[[Path], Mapping[str, tuple[Path, Path]]]
    read: Callable[[Path, Path], Scan]
    benchmark: Callable[[Scan, str], Scan] | None
    oracle: bool
    labeled: tuple[int, ...]
    copies: tuple[str, ...] = ()
    patients: Callable[[Iterable[str], Mapping[str, tuple[Path, Path]]], dict[str, list[str]]] | None = None


def read_voxels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``[X, Y, Z]`` of a scan of one channel, and its affine (ours).

    Raises:
        DataError: when it cannot be read or has several channels.
    """
    with open_volume(path) as volume:
        if volume.channels > 1:
            raise DataError(f"{path}: {volume.channels} channels where one is expected. Unpack the release again.")
        return np.concatenate(list(volume.slabs()), axis=2), volume.affine


def read_structure(path: Path, image_path: Path, image: np.ndarray) -> np.ndarray:
    """The label file of an image: 1 where it is above 0, else 0, on the image's voxels (ours).

    Raises:
        DataError: when it cannot be read or has another shape than the image.
    """
    label, _ = read_voxels(path)
    if label.shape != image.shape:
        raise DataError(
            f"{path}: shape {label.shape}, but its image has {image.shape} ({image_path}). Unpack the release again."
        )
    return (label > 0).astype(np.uint8)


def standardize(image: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Zero mean and unit deviation, as float32; both taken from the voxels ``inside``, by default from all."""
    values = image if inside is None else image[inside]
    return ((image - values.mean(dtype=np.float64)) / max(values.std(dtype=np.float64), 1e-8)).astype(np.float32)
