# SPDX-License-Identifier: Apache-2.0
"""Volumes in HDF5 files, as the semi-supervised benchmark has them: one is named as ``FILE::DATASET``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ....errors import DataError

__all__ = [
    "BENCHMARK_FILE",
    "BENCHMARK_SPACING",
    "DATASET_MARK",
    "H5_SUFFIXES",
    "dataset_affine",
    "open_dataset",
    "split_dataset",
]

H5_SUFFIXES = (".h5", ".hdf5")
DATASET_MARK = "::"
BENCHMARK_FILE = "mri_norm2.h5"
"""The left atrium's files, one in each case's folder."""
BENCHMARK_SPACING = {BENCHMARK_FILE: (0.625, 0.625, 0.625)}
"""Voxel size in mm by file name; all others are at 1 mm."""

_MOST_PACKED = 1100
"""Compressed voxels cannot be more than this many times what is stored: deflate packs at most 1032 to 1."""

_SMALL = 2**20
"""Bytes that may be declared without being stored, as in an empty data set."""

_LARGEST_CHUNK = 2**28
"""Bytes of a chunk, which HDF5 unpacks as a whole."""


@contextmanager
def open_dataset(path: str) -> Iterator[Any]:
    """The data set that ``FILE::NAME`` names, not read yet (ours).

    Raises:
        DataError: when h5py is not installed, no data set is named, or the file has none of that name.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: HDF5 needs h5py. Install it with `pip install h5py`.") from error
    file, name = split_dataset(path)
    with h5py.File(file, "r") as content:
        if name not in content:
            raise DataError(
                f'{file}: no data set "{name}" in it, only {sorted(content)}. '
                f"Name one of them as {file}{DATASET_MARK}NAME."
            )
        _refuse_what_is_elsewhere(path, content, name)
        dataset = content[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
            raise DataError(f"{path}: no data set of numbers. Name the voxels, or write them as numbers.")
        if dataset.external or dataset.is_virtual:
            raise DataError(f"{path}: its voxels are in other files. Write them into this one.")
        size, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
        if size > min(_MOST_PACKED * stored + _SMALL, psutil.virtual_memory().total):
            raise DataError(
                f"{path}: declares {size / 1e9:.3g} GB of voxels, but holds {stored / 1e9:.3g} GB. Write it again."
            )
        chunk = int(np.prod(dataset.chunks or 0, dtype=object)) * dataset.dtype.itemsize
        if chunk > _LARGEST_CHUNK:
            raise DataError(
                f"{path}: stored in pieces of {chunk / 1e9:.3g} GB, which can only be unpacked whole. Write it with "
                "smaller chunks."
            )
        yield dataset


def _refuse_what_is_elsewhere(path: str, content: Any, name: str) -> None:
    import h5py

    place = ""
    for part in name.strip("/").split("/"):
        place = f"{place}/{part}"
        if isinstance(content.get(place, getlink=True), h5py.ExternalLink | h5py.SoftLink):
            raise DataError(f"{path}: a link, which may lead to another file. Copy the voxels to its place.")


def dataset_affine(path: str, spacing: Sequence[float] | None = None) -> np.ndarray:
    """The affine of a file that holds none: axes R, A, S; the given voxel size in mm, else that of its name (ours)."""
    return np.diag([*(spacing or BENCHMARK_SPACING.get(Path(split_dataset(path)[0]).name, (1.0, 1.0, 1.0))), 1.0])


def split_dataset(path: str) -> tuple[str, str]:
    """``FILE::NAME`` as (file, name); the name is empty for any other path."""
    file, _, dataset = path.partition(DATASET_MARK)
    return file, dataset
