# SPDX-License-Identifier: Apache-2.0
"""Open a scan of any supported format and pass over its voxels in slabs, with errors that a user can act on."""

from __future__ import annotations

import gzip
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import nibabel
import numpy as np
from monai.transforms import LoadImage
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from .errors import DataError
from .readers import H5_SUFFIXES, dataset_affine, open_dataset, split_dataset

SLAB_VOXELS = 2**23
"""Voxels of a volume held at a time: 64 MiB in float64."""

_LARGE = 2**28
"""Bytes of voxels from which on scans of other formats than NIfTI are read one at a time."""

_COPIES = 4
"""How often such a scan is in memory while it is read: in ITK, as an array, and two conversions (measured)."""

_one_large_scan = threading.RLock()  # a thread may hold an image while it opens its label

_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    OverflowError,
    MemoryError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)
"""What nibabel, ITK and h5py raise on files with damaged bytes, as found by changing bytes at random."""


@dataclass(frozen=True)
class Volume:
    """An opened scan.

    Attributes:
        path: the file, or the folder of a DICOM series.
        shape: voxels along x, y, z.
        channels: images stored in the file; 1 for an ordinary scan.
        affine: voxel indices to RAS+ coordinates in mm, ``[4, 4]``.
        slabs: call it to iterate over all voxels in storage order: arrays ``[X, Y, n]``, channel after channel.
    """

    path: str
    shape: tuple[int, int, int]
    channels: int
    affine: np.ndarray
    slabs: Callable[[], Iterator[np.ndarray]]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along x, y, z in mm."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))


@contextmanager
def open_volume(path: str | os.PathLike) -> Iterator[Volume]:
    """Open a scan for one pass over its voxels.

    NIfTI and HDF5 files are streamed: memory does not grow with the scan. Other formats are held whole, large ones one
    at a time, and refused where the machine has not the memory for it.

    Args:
        path: NIfTI file, or any file or DICOM folder that MONAI's ``LoadImage`` reads (NRRD, MetaImage by ITK, and
            ``FILE.h5::image`` by :class:`H5Reader`).

    Yields:
        The opened :class:`Volume`.

    Raises:
        DataError: when it cannot be opened, is not 3D, is too large, or its affine cannot be used;
            :attr:`Volume.slabs` raises it for damage met on the way.

    Source: ours.
    """
    path = os.fspath(path)
    if not os.path.exists(split_dataset(path)[0]):
        raise DataError(f"{path}: no such file. Copy it there, or correct the path.")
    with ExitStack() as stack:
        try:
            if path.endswith((".nii", ".nii.gz")) and not os.path.isdir(path):
                volume = _open_nifti(path, stack)
            elif split_dataset(path)[0].lower().endswith(H5_SUFFIXES):
                volume = _open_hdf5(path, stack)
            else:
                volume = _open_other(path, stack)
        except _UNREADABLE as error:
            if isinstance(error, DataError):
                raise
            raise unreadable(path, error) from error
        yield volume


def unreadable(path: str, error: Exception) -> DataError:
    """The error for a file that no reader takes, with the cause looked up in its first bytes."""
    if isinstance(error, PermissionError):
        return DataError(f"{path}: permission denied. Make it readable.")
    if os.path.isdir(path):
        return DataError(f"{path}: a folder that is no readable DICOM series ({_brief(error)}). Name the scan's file.")
    try:
        with open(split_dataset(path)[0], "rb") as file:
            head = file.read(512)
    except OSError as failure:
        return DataError(f"{path}: cannot be read ({failure.strerror}). Check the disk, or copy the file again.")
    named_gzip, is_gzip = path.endswith(".gz"), head[:2] == b"\x1f\x8b"
    text = head.lstrip().lower()
    if not head:
        cause, remedy = "0 bytes", "Copy or download it again"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        cause, remedy = "a web page, not a scan", "Download it again; the site may want a login"
    elif text.startswith(b"version https://git-lfs"):
        cause, remedy = "a Git LFS pointer, not the scan", "Fetch the scan with `git lfs pull`"
    elif not head.strip(b"\0"):
        cause, remedy = "holds zeros only", "The download or copy broke off; repeat it"
    elif named_gzip and not is_gzip:
        cause, remedy = "not compressed although named .gz", "Rename it without .gz, or compress it with gzip"
    elif is_gzip and not named_gzip:
        cause, remedy = "gzip-compressed although not named .gz", "Add .gz to its name, or unpack it with gunzip"
    elif is_gzip and (damage := _gzip_damage(path)):
        cause, remedy = f"truncated or damaged ({damage})", "Copy or download it again"
    elif head[128:132] == b"DICM" and path.endswith((".nii", ".nii.gz")):
        cause, remedy = "a DICOM file named as NIfTI", "Convert the series' folder with `dualseg convert`"
    else:
        cause, remedy = f"cannot be read ({_brief(error)})", "Copy it again, or write it anew as NIfTI"
    return DataError(f"{path}: {cause}. {remedy}.")


def _gzip_damage(path: str) -> str | None:
    """What stops a gzip file from unpacking to its end, None when nothing does."""
    try:
        with gzip.open(path) as stream:
            _read_to_end(stream)
    except (OSError, EOFError, zlib.error) as error:
        return _brief(error)
    return None


def _open_nifti(path: str, stack: ExitStack) -> Volume:
    image_class = type(nibabel.load(path))
    if not issubclass(image_class, nibabel.Nifti1Pair):
        raise DataError(f"{path}: {image_class.__name__}, not NIfTI, despite its name. Write it anew as NIfTI.")
    stream = stack.enter_context(gzip.open(path) if path.endswith(".gz") else open(path, "rb"))
    image = image_class.from_stream(stream)
    if image.header.get_data_dtype().fields is not None:
        raise DataError(f"{path}: a colour (RGB) image. Save one channel, or a channel per volume, as numbers.")
    if np.issubdtype(image.header.get_data_dtype(), np.complexfloating):
        raise DataError(f"{path}: complex numbers. Save the magnitude.")
    shape, channels = _split_shape(path, image.shape)
    _check_affine(path, image.affine)

    def slabs() -> Iterator[np.ndarray]:
        try:
            yield from _nifti_slabs(image.dataobj, shape, channels)
            _read_to_end(stream)  # the checksum of a gzip file stands at its end
        except _UNREADABLE as error:
            raise unreadable(path, error) from error

    return Volume(path, shape, channels, image.affine, slabs)


def _nifti_slabs(
    data: nibabel.arrayproxy.ArrayProxy, shape: tuple[int, int, int], channels: int
) -> Iterator[np.ndarray]:
    thickness = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
    for channel in range(channels):
        rest = (0,) * (len(data.shape) - 4) + (channel,) if len(data.shape) > 3 else ()
        for start in range(0, shape[2], thickness):
            yield data[(slice(None), slice(None), slice(start, start + thickness), *reversed(rest))]


def _read_to_end(stream: BinaryIO) -> None:
    while stream.read(2**20):
        pass


def _open_hdf5(path: str, stack: ExitStack) -> Volume:
    data = stack.enter_context(open_dataset(path))
    shape, channels = _split_shape(path, data.shape)

    def slabs() -> Iterator[np.ndarray]:
        thickness = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
        try:
            for channel in range(channels):
                rest = (channel,) * (len(data.shape) - 3)
                for start in range(0, shape[2], thickness):
                    yield data[(slice(None), slice(None), slice(start, start + thickness), *rest)]
        except _UNREADABLE as error:
            raise unreadable(path, error) from error

    return Volume(path, shape, channels, dataset_affine(path), slabs)


def _open_other(path: str, stack: ExitStack) -> Volume:
    size = _bytes_of_voxels(dicom_files(path) if os.path.isdir(path) else [path])
    if size * _COPIES > physical_memory():
        raise DataError(
            f"{path}: {size / 1e9:.1f} GB of voxels, too much for a machine of {physical_memory() / 1e9:.0f} GB to "
            "read whole. Write it as NIfTI, which is read in parts, on a larger one: `dualseg convert`."
        )
    if size > _LARGE:
        stack.enter_context(_one_large_scan)
    # Named, since MONAI prefers pynrrd where that is installed, which makes all voxels float32.
    data = LoadImage("ITKReader", image_only=True, ensure_channel_first=True, dtype=None)(path)
    shape, channels = _split_shape(path, (*data.shape[1:], data.shape[0]) if data.shape[0] > 1 else data.shape[1:])
    affine = np.asarray(data.affine, dtype=np.float64)
    _check_affine(path, affine)
    voxels = data.numpy()
    return Volume(path, shape, channels, affine, lambda: iter(voxels))


def _bytes_of_voxels(files: list[str]) -> int:
    """Size of a scan's voxels by its header, by that of its first slice where it has several files."""
    import itk  # takes seconds, and most users have NIfTI

    reader = itk.ImageIOFactory.CreateImageIO(files[0], itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:  # no format that ITK knows: the reader is left to say so
        return 0
    reader.SetFileName(files[0])
    reader.ReadImageInformation()
    return int(reader.GetImageSizeInBytes()) * len(files)


def physical_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def dicom_files(folder: str | os.PathLike) -> list[str]:
    """The files of a folder's one DICOM series, in the order in which its slices are stacked (ours).

    Raises:
        DataError: when there is no series in it, or several.
    """
    import itk  # takes seconds, and most users have NIfTI

    names = itk.GDCMSeriesFileNames.New()
    names.SetGlobalWarningDisplay(False)
    names.SetUseSeriesDetails(True)
    names.SetDirectory(os.fspath(folder))
    series = list(names.GetSeriesUIDs())
    if len(series) != 1:
        found = f"{len(series)} DICOM series" if series else "no DICOM series"
        raise DataError(f"{folder}: a folder with {found} in it. A scan is a file, or a folder of exactly one series.")
    return list(names.GetFileNames(series[0]))


def _split_shape(path: str, stored: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """Spatial shape and number of channels of a stored shape ``[X, Y, Z(, C)]``."""
    if len(stored) < 3 or len(stored) > 5 or (len(stored) == 5 and stored[3] != 1):
        raise DataError(
            f"{path}: {len(stored)}D, shape {_by(stored)}. Only 3D scans (x, y, z and channels) can be used."
        )
    if min(stored) < 1:
        raise DataError(f"{path}: no voxels, shape {_by(stored)}. Export it again.")
    return tuple(int(n) for n in stored[:3]), int(stored[-1]) if len(stored) > 3 else 1


def _check_affine(path: str, affine: np.ndarray) -> None:
    finite = np.isfinite(affine).all()
    if not finite or abs(np.linalg.det(affine[:3, :3])) < 1e-9 or None in nibabel.aff2axcodes(affine):
        raise DataError(
            f"{path}: unusable geometry, the affine is {np.asarray(affine)[:3].tolist()}. "
            "Correct spacing and directions in its header, or convert the scan again."
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(int(n)) for n in shape)


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:160].rstrip(". ")
