# SPDX-License-Identifier: Apache-2.0
"""Readers in the place of MONAI's: what the check has read, training and inference read in the same way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from typing import Any

import nibabel
import numpy as np
from monai.data import ImageReader, NibabelReader
from monai.transforms.io.array import SUPPORTED_READERS
from monai.utils import ensure_tuple

from ...errors import DataError
from .formats.dicom import dicom_volume, read_dicom
from .formats.hdf5 import H5_SUFFIXES, dataset_affine, open_dataset, split_dataset
from .formats.names import DICOM_SUFFIXES, is_planar
from .formats.nifti import mm_affine
from .formats.planar import planar_affine, read_planar
from .formats.text_header import TextHeaderReader
from .volumes import UNREADABLE, unreadable

__all__ = ["DicomReader", "H5Reader", "PlanarReader", "TextHeaderReader", "ThreadSafeNibabelReader"]


class _ArrayReader(ImageReader):
    """Shared by the readers of formats that MONAI does not know: files as (voxels, affine)."""

    def get_data(self, img: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, dict[str, Any]]:
        """Voxels ``[X, Y, Z(, C)]`` (several files: ``[C, X, Y, Z]``) and MONAI's meta data."""
        arrays, affine = [array for array, _ in img], img[0][1]
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(arrays[0].shape[:3]),
            "space": "RAS",
            "original_channel_dim": 0 if len(arrays) > 1 else 3 if arrays[0].ndim == 4 else float("nan"),
        }
        return (arrays[0] if len(arrays) == 1 else np.stack(arrays)), meta


class H5Reader(_ArrayReader):
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
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Read one path, or one per channel.

        Raises:
            DataError: when h5py is not installed, no data set is named, or the file has none of that name.
        """
        volumes = []
        for name in map(os.fspath, ensure_tuple(data)):
            with open_dataset(name) as dataset:
                volumes.append((dataset[()], dataset_affine(name, self.spacing)))
        return volumes


class DicomReader(_ArrayReader):
    """Read a folder of one DICOM volume, or ``FOLDER::KEY``; what is no regular grid is refused.

    MONAI's reader takes gaps for thick slices and a gantry's tilt for none. Importing this package registers this one.

    Source: ours, see :func:`~.dicom.dicom_volume`.
    """

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Whether all are folders, or DICOM files by their names."""
        files = [split_dataset(os.fspath(name))[0] for name in ensure_tuple(filename)]
        return all(os.path.isdir(file) or file.lower().endswith(DICOM_SUFFIXES) for file in files)

    def read(
        self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Read one path, or one per channel.

        Raises:
            DataError: as :func:`~.dicom.dicom_volume` does.
        """
        volumes = [dicom_volume(name) for name in ensure_tuple(data)]
        return [(read_dicom(volume), volume.affine) for volume in volumes]


class PlanarReader(_ArrayReader):
    """Read PNG, TIFF, JPEG and BMP as a volume of one slice, the channels of colour images last.

    MONAI's PILReader drops the palette's indices of some files and the third axis of all. Importing this package
    registers this one.

    Source: ours, see :func:`~.planar.read_planar`.
    """

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Whether all are such images by their names."""
        return all(is_planar(name) for name in ensure_tuple(filename))

    def read(
        self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Read one path, or one per channel.

        Raises:
            DataError: as :func:`~.planar.read_planar` does.
        """
        return [(read_planar(name), planar_affine()) for name in ensure_tuple(data)]


class ThreadSafeNibabelReader(NibabelReader):
    """MONAI's reader of NIfTI, for several threads at once; arguments as in ``monai.data.NibabelReader``.

    MONAI 1.6 keeps the names of the files last read in the reader, and looks at as many of a case's files as there are
    names: when another thread reads a label in between, **a case with one file per channel silently loses all channels
    but the first**. Here the names come from the images themselves. Importing this package registers it with MONAI, so
    that ``LoadImage`` and ``LoadImaged`` take it for NIfTI.

    Further, where MONAI replaces an sform by a qform that fits the voxel size better, the sform counts; lengths are mm
    whatever the header's unit; voxels are in the machine's byte order; pairs (``.img``) and MGH are read.

    Source: ours.
    """

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Whether all are NIfTI or MGH files by their names."""
        suffixes = (".nii", ".nii.gz", ".img", ".mgz", ".mgh")
        return all(os.fspath(name).lower().endswith(suffixes) for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> Any:
        """Open one file, or one per channel, as nibabel does."""
        images = [nibabel.load(name, **{**self.kwargs, **kwargs}) for name in ensure_tuple(data)]
        return images if len(images) > 1 else images[0]

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Voxels and meta data of one image, or of one per channel, as ``NibabelReader.get_data`` gives them.

        Raises:
            DataError: when a file cannot be read to its end.
        """
        mine = copy(self)
        mine.filenames = tuple(image.get_filename() for image in ensure_tuple(img))
        try:
            return super(ThreadSafeNibabelReader, mine).get_data(img)
        except DataError:
            raise
        except UNREADABLE as error:  # it was whole when it was checked
            raise unreadable(mine.filenames[0], error) from error

    def _get_affine(self, img: Any) -> np.ndarray:
        return mm_affine(img)

    def _get_spatial_shape(self, img: Any) -> np.ndarray:
        shape = super()._get_spatial_shape(img)
        return shape if len(shape) > 2 else np.append(shape, 1)

    def _get_array_data(self, img: Any, filename: str) -> np.ndarray:
        voxels = super()._get_array_data(img, filename)
        voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
        return voxels if voxels.ndim > 2 else voxels[..., None]  # a file of two dimensions is a single slice


# With pydicom, MONAI 1.6 would warn at every loader that this reader lacks its package; DICOM is read by the one here.
SUPPORTED_READERS.pop("nvimgcodecpydicomreader", None)
SUPPORTED_READERS.setdefault("dualseg_h5reader", H5Reader)
SUPPORTED_READERS.setdefault("dualseg_nibabelreader", ThreadSafeNibabelReader)
SUPPORTED_READERS.setdefault("dualseg_textheaderreader", TextHeaderReader)
SUPPORTED_READERS.setdefault("dualseg_dicomreader", DicomReader)
SUPPORTED_READERS.setdefault("dualseg_planarreader", PlanarReader)
