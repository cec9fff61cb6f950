# SPDX-License-Identifier: Apache-2.0
"""Readers beside MONAI's own: the semi-supervised benchmark's HDF5 files, and NIfTI from several threads at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader, NibabelReader
from monai.transforms.io.array import SUPPORTED_READERS
from monai.utils import ensure_tuple

from .errors import DataError

H5_SUFFIXES = (".h5", ".hdf5")
DATASET_MARK = "::"
BENCHMARK_FILE = "mri_norm2.h5"
"""The left atrium's files, one in each case's folder."""
BENCHMARK_SPACING = {BENCHMARK_FILE: (0.625, 0.625, 0.625)}
"""Voxel size in mm by file name; all others are at 1 mm."""


class H5Reader(ImageReader):
    """Read ``image`` and ``label`` of a benchmark file (``mri_norm2.h5`` and its kin), named as ``FILE::image``.

    Importing this package registers it with MONAI, so that ``LoadImage`` and ``LoadImaged`` take such paths beside
    those of all other formats. The files hold no geometry: axes are taken as R, A, S, the origin as 0.

    Args:
        spacing: voxel size in mm; default: 0.625 for ``mri_norm2.h5`` (left atrium), 1 for all other names.

    Example:
        >>> LoadImage(image_only=True)("h5/CASE/mri_norm2.h5::image").shape
        torch.Size([180, 134, 88])

    Source: ours; the layout is that of Yu et al., UA-MT, MICCAI 2019.
    """

    def __init__(self, spacing: Sequence[float] | None = None) -> None:
        super().__init__()
        self.spacing = spacing

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Whether all are HDF5 files by their names."""
        return all(split_dataset(os.fspath(name))[0].lower().endswith(H5_SUFFIXES) for name in ensure_tuple(filename))

    def read(
        self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any
    ) -> list[tuple[np.ndarray, str]]:
        """Read one path, or one per channel.

        Raises:
            DataError: when h5py is not installed, no data set is named, or the file has none of that name.
        """
        volumes = []
        for name in ensure_tuple(data):
            with open_dataset(os.fspath(name)) as dataset:
                volumes.append((dataset[()], os.fspath(name)))
        return volumes

    def get_data(self, img: list[tuple[np.ndarray, str]]) -> tuple[np.ndarray, dict[str, Any]]:
        """Voxels ``[X, Y, Z(, C)]`` (several files: ``[C, X, Y, Z]``) and MONAI's meta data."""
        arrays = [array for array, _ in img]
        affine = dataset_affine(img[0][1], self.spacing)
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(arrays[0].shape[:3]),
            "space": "RAS",
            "original_channel_dim": 0 if len(arrays) > 1 else 3 if arrays[0].ndim == 4 else float("nan"),
        }
        return (arrays[0] if len(arrays) == 1 else np.stack(arrays)), meta


class ThreadSafeNibabelReader(NibabelReader):
    """MONAI's reader of NIfTI, for several threads at once; arguments as in ``monai.data.NibabelReader``.

    MONAI 1.6 keeps the names of the files last read in the reader, and looks at as many of a case's files as there are
    names: when another thread reads a label in between, **a case with one file per channel silently loses all channels
    but the first**. Here the names come from the images themselves. Importing this package registers it with MONAI, so
    that ``LoadImage`` and ``LoadImaged`` take it for NIfTI.

    Source: ours.
    """

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Voxels and meta data of one image, or of one per channel, as ``NibabelReader.get_data`` gives them."""
        mine = copy(self)
        mine.filenames = tuple(image.get_filename() for image in ensure_tuple(img))
        return super(ThreadSafeNibabelReader, mine).get_data(img)


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
        yield content[name]


def dataset_affine(path: str, spacing: Sequence[float] | None = None) -> np.ndarray:
    """The affine of a file that holds none: axes R, A, S; the given voxel size in mm, else that of its name (ours)."""
    return np.diag([*(spacing or BENCHMARK_SPACING.get(Path(split_dataset(path)[0]).name, (1.0, 1.0, 1.0))), 1.0])


def split_dataset(path: str) -> tuple[str, str]:
    """``FILE::NAME`` as (file, name); the name is empty for any other path."""
    file, _, dataset = path.partition(DATASET_MARK)
    return file, dataset


SUPPORTED_READERS.setdefault("dualseg_h5reader", H5Reader)
SUPPORTED_READERS.setdefault("dualseg_nibabelreader", ThreadSafeNibabelReader)
