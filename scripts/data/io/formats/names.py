# SPDX-License-Identifier: Apache-2.0
"""What a scan is called: by its file, and the files that are made from it."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from .hdf5 import BENCHMARK_FILE, H5_SUFFIXES, split_dataset

__all__ = [
    "DICOM_SUFFIXES",
    "PLANAR_SUFFIXES",
    "SCAN_SUFFIXES",
    "VOLUME_SUFFIXES",
    "case_name",
    "full_name",
    "holds_dicom",
    "is_planar",
    "label_of",
    "looks_like_dicom",
    "names_a_label",
    "prediction_name",
    "read_name",
    "result_name",
    "scan_stem",
    "scans_in",
    "starts_as_label",
    "without_prefix",
]

PLANAR_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
"""Images of one plane, which do not say where in a patient it lies."""

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".img")
SCAN_SUFFIXES = (*VOLUME_SUFFIXES, *PLANAR_SUFFIXES)
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_LABEL_WORDS = r"labels?|segm?|segmentations?|masks?|gt|ground[-_]?truth|truth|manual|annotations?|dseg"
_IMAGE_WORDS = r"images?|img|imaging|scans?|volumes?|vol|orig"
_LABEL_ENDING = re.compile(rf"(?:^|[-_. ])({_LABEL_WORDS})$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(rf"(?:^|[-_. ])({_IMAGE_WORDS})$", re.IGNORECASE)
_PREFIX = re.compile(rf"^({_LABEL_WORDS}|{_IMAGE_WORDS})([-_. ]+|(?=\d))(?=.)", re.IGNORECASE)
_LABEL_PREFIX = re.compile(rf"^({_LABEL_WORDS})([-_. ]+|(?=\d))(?=.)", re.IGNORECASE)


def scan_stem(file: str | os.PathLike) -> str:
    """Name of a scan's file without its suffix; of a DICOM series the folder's name."""
    name = Path(file).name
    suffix = next((suffix for suffix in (*SCAN_SUFFIXES, *DICOM_SUFFIXES) if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def is_planar(file: str | os.PathLike) -> bool:
    """Whether a file is an image of one plane by its name: PNG, TIFF, JPEG or BMP."""
    return os.fspath(file).lower().endswith(PLANAR_SUFFIXES)


def read_name(file: str | os.PathLike) -> tuple[str, str]:
    """What a file's name says: the case, and ``image``, ``label`` or nothing (ours).

    Example:
        >>> read_name("case_07_seg.nii.gz"), read_name("imaging.nii.gz"), read_name("case_07.nrrd")
        (('case_07', 'label'), ('', 'image'), ('case_07', ''))
    """
    key, role = scan_stem(file), ""
    while True:
        if match := _LABEL_ENDING.search(key):
            key, role = key[: match.start()], "label"
        elif match := _IMAGE_ENDING.search(key):
            key, role = key[: match.start()], role or "image"
        else:
            return key, role


def case_name(file: str | os.PathLike) -> str:
    """Name of a case: its file's without the suffix and endings such as ``_seg`` or ``_0000``, in composed Unicode."""
    return full_name(file).removesuffix("_0000")


def full_name(file: str | os.PathLike) -> str:
    """As :func:`case_name`, with the channel."""
    return unicodedata.normalize("NFC", read_name(file)[0] or scan_stem(file))


def without_prefix(name: str) -> str:
    """A case's name without what says before it that it is an image or a label: ``label_07``, ``img07`` (ours)."""
    return _PREFIX.sub("", name)


def starts_as_label(file: str | os.PathLike) -> bool:
    """Whether a file's name begins as labels do: ``label_07``, ``seg07``, ``segmentation-7`` (ours)."""
    return _LABEL_PREFIX.match(scan_stem(file)) is not None


def names_a_label(file: str | os.PathLike) -> bool:
    """Whether a file's name ends as labels do: ``_seg``, ``_label``, ``_mask``, ``_gt``, ... (ours)."""
    return read_name(file)[1] == "label"


def label_of(file: str | os.PathLike) -> set[str]:
    """The names that a label's scan may have: ``CASE``, ``CASE_0000``, ``CASE_image``, ``CASE_img`` (ours)."""
    case = read_name(file)[0]
    return {case, *(f"{case}_{ending}" for ending in ("0000", "image", "img"))}


def scans_in(folder: Path) -> list[Path]:
    """The scans of a folder, sorted by name: files, and subfolders that hold DICOM at any depth, each one scan."""
    found = []
    for entry in sorted(folder.iterdir()):
        hidden = entry.name.startswith(".")  # also the ._NAME files that macOS leaves on shared disks
        if not hidden and (entry.name.lower().endswith(SCAN_SUFFIXES) if entry.is_file() else holds_dicom(entry)):
            found.append(entry)
    return found


def holds_dicom(folder: Path) -> bool:
    """Whether a DICOM file lies in a folder, at any depth, whatever its suffix (ours)."""
    return any(
        looks_like_dicom(Path(place, name))
        for place, folders, files in os.walk(folder)
        if not Path(place).name.startswith(".")
        for name in files
    )


def looks_like_dicom(file: Path) -> bool:
    """Whether a file is DICOM by its suffix, or by the mark in its head (ours)."""
    name = file.name.lower()
    if name.startswith(".") or name.endswith((*SCAN_SUFFIXES, *H5_SUFFIXES, ".json", ".txt")) or not file.is_file():
        return False
    if name.endswith(DICOM_SUFFIXES):
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:  # it cannot be read: whoever wants it will say so
        return False


def prediction_name(image: str | os.PathLike) -> str:
    """Name of a result: the file's without suffix and ``_0000``; of ``CASE/mri_norm2.h5`` its folder's (ours)."""
    path = Path(split_dataset(os.fspath(image))[0])
    if path.name == BENCHMARK_FILE:
        return path.parent.name
    stem = path.stem if path.name.lower().endswith((*H5_SUFFIXES, *DICOM_SUFFIXES)) else scan_stem(path)
    return stem.removesuffix("_0000")


def result_name(image: str | os.PathLike) -> str:
    """Name of a segmentation's file: a PNG of a PNG, TIFF, JPEG or BMP, else NIfTI (ours)."""
    return f"{prediction_name(image)}_seg{'.png' if is_planar(image) else '.nii.gz'}"
