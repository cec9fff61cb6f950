# SPDX-License-Identifier: Apache-2.0
"""Open a scan of any supported format and pass over its voxels in slabs, with errors that a user can act on."""

from __future__ import annotations

import gzip
import os
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import nibabel
import numpy as np
import psutil
from monai.data import ITKReader
from monai.transforms import LoadImage
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError

from ...errors import DataError
from .formats.dicom import dicom_volume, read_dicom
from .formats.hdf5 import H5_SUFFIXES, dataset_affine, open_dataset, split_dataset
from .formats.headers import TEXT_SUFFIXES, check_text_header, most_voxel_bytes
from .formats.names import DICOM_SUFFIXES, is_planar
from .formats.nifti import forms_disagree, mm_affine
from .formats.planar import is_indexed, planar_affine, read_planar
from .formats.segments import segments_of
from .formats.text_header import TextHeaderReader

SLAB_VOXELS = 2**23
"""Voxels of a volume held at a time: 64 MiB in float64."""

_LARGE = 2**28
"""Bytes of voxels from which on scans of other formats than NIfTI are read one at a time."""

_COPIES = 4
"""How often such a scan is in memory while it is read: in ITK, as an array, and two conversions (measured)."""

_MOST_PACKED = 1100
"""A compressed file cannot hold more than this many times its size: deflate packs at most 1032 to 1."""

_LOOKED_THROUGH = 2**28
"""Unpacked bytes of a file that no reader takes among which damage is looked for."""

_TAIL = 2**20
"""Bytes that may follow the voxels of a NIfTI file."""

_SIZES = (1e-4, 1e3)
"""Voxel sizes in mm that are believed."""

_one_large_scan = threading.RLock()  # a thread may hold an image while it opens its label

UNREADABLE = (
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
    MGHError,
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
        notes: what a user should know of how it was read.
        partial: whether it may be a part of its scan's grid, as 3D Slicer's segmentations are.
        flat: whether the file has two dimensions; its third has one voxel here.
        indexed: whether its voxels are numbers of colours, which only a label's may be.
    """

    path: str
    shape: tuple[int, int, int]
    channels: int
    affine: np.ndarray
    slabs: Callable[[], Iterator[np.ndarray]]
    notes: list[str] = field(default_factory=list)
    partial: bool = False
    flat: bool = False
    indexed: bool = False

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
        path: file of NIfTI, MGH, NRRD, MetaImage, PNG, TIFF or JPEG, folder or file of DICOM (``FOLDER::SERIES`` names
            one of several series), or ``FILE.h5::image``.

    Yields:
        The opened :class:`Volume`.

    Raises:
        DataError: when it cannot be opened, is not 3D, is too large, or its affine cannot be used;
            :attr:`Volume.slabs` raises it for damage met on the way.

    Source: ours.
    """
    path = os.fspath(path)
    file = split_dataset(path)[0]
    if not os.path.exists(file):
        raise DataError(f"{path}: no such file. Copy it there, or correct the path.")
    if not (stat.S_ISREG(mode := os.stat(file).st_mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path}: no file but a pipe, socket or device. Name the scan's file.")
    name = file.lower()
    with ExitStack() as stack:
        try:
            if os.path.isdir(file) or name.endswith(DICOM_SUFFIXES):
                volume = _open_dicom(path, stack)
            elif name.endswith((".nii", ".nii.gz")):
                volume = _open_nifti(path, stack)
            elif name.endswith((".img", ".mgz", ".mgh")):
                volume = _open_by_nibabel(path)
            elif name.endswith(H5_SUFFIXES):
                volume = _open_hdf5(path, stack)
            elif is_planar(name):
                volume = _open_planar(path)
            else:
                volume = _open_by_itk(path, stack)
        except UNREADABLE as error:
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
    """What stops a gzip file from unpacking to its end, None when nothing does, or only far behind its start."""
    try:
        with gzip.open(path) as stream:
            for _ in range(_LOOKED_THROUGH // 2**20):
                if not stream.read(2**20):
                    break
    except (OSError, EOFError, zlib.error) as error:
        return _brief(error)
    return None


def _open_nifti(path: str, stack: ExitStack) -> Volume:
    packed = path.lower().endswith(".gz")
    image_class = type(nibabel.load(path))
    if not issubclass(image_class, nibabel.Nifti1Pair):
        raise DataError(f"{path}: {image_class.__name__}, not NIfTI, despite its name. Write it anew as NIfTI.")
    stream = stack.enter_context(gzip.open(path) if packed else open(path, "rb"))  # noqa: SIM115
    image = image_class.from_stream(stream)
    claimed = int(np.prod(image.shape, dtype=object)) * image.header.get_data_dtype().itemsize
    _refuse_more_than_there_is(path, claimed, os.path.getsize(path) * (_MOST_PACKED if packed else 1))
    return _nibabel_volume(path, image, stream)


def _open_by_nibabel(path: str) -> Volume:
    image = nibabel.load(path)
    if not isinstance(image, (nibabel.Nifti1Pair, nibabel.MGHImage)):
        raise DataError(f"{path}: {type(image).__name__}, which does not say where left is. Write it anew as NIfTI.")
    return _nibabel_volume(path, image)


def _nibabel_volume(path: str, image: nibabel.spatialimages.SpatialImage, stream: BinaryIO | None = None) -> Volume:
    if image.header.get_data_dtype().fields is not None:
        raise DataError(f"{path}: a colour (RGB) image. Save one channel, or a channel per volume, as numbers.")
    if np.issubdtype(image.header.get_data_dtype(), np.complexfloating):
        raise DataError(f"{path}: complex numbers. Save the magnitude.")
    flat = len(image.shape) == 2
    shape, channels = _split_shape(path, (*image.shape, 1) if flat else image.shape)
    affine = mm_affine(image)
    _check_affine(path, affine)
    notes = []
    if isinstance(image, nibabel.Nifti1Pair) and (gap := forms_disagree(image)) > min(image.header.get_zooms()[:3]):
        notes.append(
            f"{path}: sform and qform are up to {gap:.3g} mm apart. The sform counts here; ITK and 3D Slicer may "
            "follow the other. Predictions carry both."
        )

    def slabs() -> Iterator[np.ndarray]:
        try:
            yield from _nifti_slabs(image.dataobj, shape, channels)
            if stream is not None:
                _read_to_end(stream, path)  # the checksum of a gzip file stands at its end
        except UNREADABLE as error:
            if isinstance(error, DataError):
                raise
            raise unreadable(path, error) from error

    return Volume(path, shape, channels, affine, slabs, notes, flat=flat)


def _refuse_more_than_there_is(path: str, claimed: int, most: int) -> None:
    if claimed > physical_memory():
        raise DataError(
            f"{path}: its header claims {claimed / 1e9:.1f} GB of voxels, more than this machine's memory "
            f"({physical_memory() / 1e9:.0f} GB). Use a larger one, or copy the file again if that cannot be."
        )
    if claimed > most:
        raise DataError(
            f"{path}: its header claims {claimed} bytes of voxels, but it cannot hold them: truncated or damaged. "
            "Copy or download it again."
        )


def _nifti_slabs(
    data: nibabel.arrayproxy.ArrayProxy, shape: tuple[int, int, int], channels: int
) -> Iterator[np.ndarray]:
    if len(data.shape) == 2:
        yield np.asarray(data)[..., None]
        return
    thickness = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
    for channel in range(channels):
        rest = (0,) * (len(data.shape) - 4) + (channel,) if len(data.shape) > 3 else ()
        for start in range(0, shape[2], thickness):
            yield data[(slice(None), slice(None), slice(start, start + thickness), *reversed(rest))]


def _read_to_end(stream: BinaryIO, path: str) -> None:
    if len(stream.read(_TAIL + 1)) > _TAIL:
        raise DataError(f"{path}: goes on after its last voxel. Copy it again, or write it anew as NIfTI.")


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
        except UNREADABLE as error:
            raise unreadable(path, error) from error

    return Volume(path, shape, channels, dataset_affine(path), slabs)


def _open_planar(path: str) -> Volume:
    pixels = read_planar(path)
    shape, channels = _split_shape(path, pixels.shape)
    planes = [pixels] if channels == 1 else list(np.moveaxis(pixels, -1, 0))
    return Volume(path, shape, channels, planar_affine(), lambda: iter(planes), flat=True, indexed=is_indexed(path))


def _open_dicom(path: str, stack: ExitStack) -> Volume:
    found = dicom_volume(path)
    _check_size(path, found.bytes, stack)
    _check_affine(path, found.affine)
    voxels = read_dicom(found)
    return Volume(path, found.shape, 1, found.affine, lambda: iter([voxels]), found.notes)


def _open_by_itk(path: str, stack: ExitStack) -> Volume:
    text = path.lower().endswith(TEXT_SUFFIXES)
    notes, segments = (check_text_header(path), segments_of(path)) if text else ([], [])
    _check_size(path, _bytes_of_voxels(path), stack)
    # Named in the call, since of several readers the last one's complaint would be shown.
    reader = TextHeaderReader() if text else ITKReader()
    data = LoadImage(image_only=True, ensure_channel_first=True, dtype=None)(path, reader=reader)
    shape, channels = _split_shape(path, (*data.shape[1:], data.shape[0]) if data.shape[0] > 1 else data.shape[1:])
    affine = np.asarray(data.affine, dtype=np.float64)
    _check_affine(path, affine)
    voxels = data.numpy()
    return Volume(path, shape, channels, affine, lambda: iter(voxels), notes, partial=bool(segments))


def _check_size(path: str, size: int, stack: ExitStack) -> None:
    """Refuse a scan that does not fit the memory; hold large ones one at a time."""
    if size * _COPIES > physical_memory():
        raise DataError(
            f"{path}: {size / 1e9:.1f} GB of voxels, too much for a machine of {physical_memory() / 1e9:.0f} GB to "
            "read whole. Write it as NIfTI, which is read in parts, on a larger one: `dualseg convert`."
        )
    if size > _LARGE:
        stack.enter_context(_one_large_scan)


def _bytes_of_voxels(path: str) -> int:
    """Size of a scan's voxels by its header.

    Raises:
        DataError: when the files of a NRRD or MetaImage scan cannot hold so many.
    """
    import itk  # takes seconds, and most users have NIfTI

    reader = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:  # no format that ITK knows: the reader is left to say so
        return 0
    reader.SetFileName(path)
    reader.ReadImageInformation()
    size = int(reader.GetImageSizeInBytes())
    if path.lower().endswith(TEXT_SUFFIXES):
        _refuse_more_than_there_is(path, size, most_voxel_bytes(path) * _MOST_PACKED)
    return size


def physical_memory() -> int:
    """Bytes of memory that the machine has."""
    return psutil.virtual_memory().total


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
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    usable = np.isfinite(affine).all() and sizes.min() > 0
    if not usable or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3 or None in nibabel.aff2axcodes(affine):
        raise DataError(
            f"{path}: unusable geometry, the affine is {np.asarray(affine)[:3].tolist()}. "
            "Correct spacing and directions in its header, or convert the scan again."
        )
    if not _SIZES[0] <= sizes.min() <= sizes.max() <= _SIZES[1]:
        raise DataError(
            f"{path}: voxels of {' x '.join(f'{size:.3g}' for size in sizes)} mm. Correct the voxel size in the "
            "header, or write the scan anew in mm."
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(int(n)) for n in shape)


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:160].rstrip(". ")
