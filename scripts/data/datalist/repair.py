# SPDX-License-Identifier: Apache-2.0
"""Repaired copies of files whose content is right and whose form is not; nothing is ever guessed."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ...errors import DataError
from ...files import replace_file
from ..io.formats.grids import placement
from ..io.formats.hdf5 import H5_SUFFIXES
from ..io.formats.names import scan_stem
from ..io.formats.nifti import NIFTI_SUFFIXES, save_nifti
from ..io.label_values import VALUES, from_one_hot, to_classes
from ..io.volumes import Volume, open_volume
from .check import CaseReport, DataReport
from .label_files import voxels_of
from .read import SECTIONS, image_files, read_content
from .write import write_datalist

__all__ = ["Repair", "find_repairs", "write_repaired"]

_SMALL = (np.uint8, np.int8, np.int16, np.uint16)
"""Types of voxels that every program takes for a label."""


@dataclass(frozen=True)
class Repair:
    """What can be done for a ``file``, an ``image`` or a ``label`` by its ``role``: the copy will have ``changes``.

    A label's classes have ``values`` in the file and are ``written`` as others; None: class numbers.
    """

    file: str
    role: str
    changes: tuple[str, ...]
    case: CaseReport
    values: Sequence[float] | None = None
    written: Sequence[float] | None = None

    def __str__(self) -> str:
        return f"{self.file}: can be repaired exactly: {', '.join(self.changes)}"


def find_repairs(datalist: Mapping[str, Any], report: DataReport) -> list[Repair]:
    """What can be repaired without a guess; only headers of NIfTI files are read for it.

    Args:
        datalist: from :func:`~.read.load_datalist`.
        report: of it, from :func:`~.check.inspect_data`.

    Returns:
        Order of axes and whole grid of a label as its scan's, class numbers in the place of other values, 8 bit, the
        usual order of bytes, and a name that fits the compression.

    Source: ours.
    """
    cases = [case for section in SECTIONS for case in datalist.get(section, [])]
    both = list(zip(cases, report.cases, strict=True))
    # One datalist has one set of values: class numbers only where every label gets them.
    every = all(_can_be_placed(case["label"], own) for case, own in both if "label" in case)
    written = None if every else datalist.get(VALUES)
    found = []
    for case, own in both:
        for file in image_files(case):
            if changes := _of_image(file):
                found.append(Repair(file, "image", tuple(changes), own))
        if "label" in case and (changes := _of_label(case["label"], own, case.get(VALUES), written)):
            found.append(Repair(case["label"], "label", tuple(changes), own, case.get(VALUES), written))
    return found


def _can_be_placed(file: str, case: CaseReport) -> bool:
    """Whether a label has been read, and may be written anew."""
    of_two = file.split("::")[0].lower().endswith(H5_SUFFIXES)
    return not (_misnamed(file) or of_two or case.errors) and bool(case.affine)


def _of_image(file: str) -> list[str]:
    if name := _misnamed(file):
        return [name]
    header = _header(file)
    if header is None:
        return []
    changes = ["the usual order of bytes"] if header.endianness != nibabel.volumeutils.native_code else []
    if header.get_data_dtype() in (np.int64, np.uint64):
        changes.append("32 bit in the place of 64, which other programs do not read")
    return changes


def _of_label(
    file: str, case: CaseReport, values: Sequence[float] | None, written: Sequence[float] | None
) -> list[str]:
    if name := _misnamed(file):
        return [name]
    if not _can_be_placed(file, case):
        return []
    changes = []
    with open_volume(file) as volume:
        place = placement(volume.shape, volume.affine, case.shape, np.array(case.affine))
        if place is None or not (place.covers(volume.shape) or volume.partial):
            return []
        if place.axes != (0, 1, 2) or any(place.flips):
            changes.append("axes in the order of its scan's")
        if not place.covers(volume.shape):
            changes.append("all of its scan's voxels")
        if values != written or volume.channels > 1:
            which = f"class numbers 0 to {max(case.label_voxels)}" if written is None else "those of the datalist"
            changes.append(f"{which} as values")
    header = _header(file)
    if header is not None and volume.channels == 1 and values is None:
        slope, start = header.get_slope_inter()
        if header.get_data_dtype() not in _SMALL or (slope, start) not in ((None, None), (1, 0)):
            changes.append("8 bit")
        elif header.endianness != nibabel.volumeutils.native_code:
            changes.append("the usual order of bytes")
    return changes


def _header(file: str) -> Any:
    """The header of a NIfTI file that can be read; None for any other."""
    if not file.lower().endswith(NIFTI_SUFFIXES):
        return None
    try:
        image = nibabel.load(file)
    except Exception:
        return None
    return image.header if isinstance(image, nibabel.Nifti1Pair) else None


def _misnamed(file: str) -> str | None:
    if not file.lower().endswith(NIFTI_SUFFIXES[:2]) or not os.path.isfile(file):
        return None
    with open(file, "rb") as stream:
        head = stream.read(4)
    packed, named = head[:2] == b"\x1f\x8b", file.lower().endswith(".gz")
    if packed == named or not (
        packed or int.from_bytes(head, "little") in (348, 540) or head in (b"\0\0\1\\", b"\0\0\2\x1c")
    ):
        return None
    return "named .nii.gz, as it is compressed" if packed else "compressed, as it is named .gz"


def write_repaired(datalist_path: str | os.PathLike, repairs: Sequence[Repair], output: str | os.PathLike) -> str:
    """Write a copy of every file that can be repaired, and a datalist that names copies and sound files.

    Args:
        datalist_path: of the data.
        repairs: from :func:`find_repairs`.
        output: folder for the copies; it must not have a datalist yet.

    Returns:
        Path of the new datalist.

    Raises:
        DataError: when the folder has files of these names, or a copy cannot be written.

    Source: ours.
    """
    datalist_path, output = Path(datalist_path), Path(output)
    content = read_content(datalist_path)
    root = datalist_path.resolve().parent
    targets = dict(_targets(repairs, root, output))
    if taken := [target for target in (output / "datalist.json", *targets.values()) if target.exists()]:
        raise DataError(f"{taken[0]}: is there already. Name another folder with --fix.")
    for repair in repairs:
        _write(repair, targets[repair.file])

    def path_of(file: str) -> str:
        whole = os.path.normpath(root / file.replace("\\", "/"))
        return str(targets.get(whole, whole))

    for section in SECTIONS:
        for case in content.get(section, []):
            image = case["image"]
            case["image"] = [path_of(one) for one in image] if isinstance(image, list) else path_of(image)
            if "label" in case and section != "unlabeled":
                case["label"] = path_of(case["label"])
    if any(repair.role == "label" and repair.written is None for repair in repairs):
        content.pop(VALUES, None)
    return write_datalist(content, output / "datalist.json")


def _targets(repairs: Sequence[Repair], root: Path, output: Path) -> Iterator[tuple[str, Path]]:
    """Where each copy goes: below the folders it is in, seen from the datalist."""
    for repair in repairs:
        parts = [part for part in Path(os.path.relpath(repair.file, root)).parts if part != ".."]
        yield repair.file, output.joinpath(*parts[:-1], f"{scan_stem(repair.file)}.nii.gz")


def _write(repair: Repair, target: Path) -> None:
    if _misnamed(repair.file):
        content = Path(repair.file).read_bytes()
        with replace_file(target) as temporary:
            temporary.write_bytes(content if content[:2] == b"\x1f\x8b" else gzip.compress(content, mtime=0))
        return
    with open_volume(repair.file) as volume:
        whole = voxels_of(volume)
        if repair.role == "label":
            voxels, affine, like = _label_on_scan(whole, volume, repair)
        else:
            voxels, affine, like = np.moveaxis(whole, 0, -1), volume.affine, repair.file
            voxels = voxels[..., 0] if volume.channels == 1 else voxels
            if voxels.dtype in (np.int64, np.uint64):
                if voxels.min() < -(2**31) or voxels.max() >= 2**31:
                    raise DataError(f"{repair.file}: has numbers that 32 bit cannot hold. Leave it out.")
                voxels = voxels.astype(np.int32)
        save_nifti(voxels, affine, target, like=like)


def _label_on_scan(whole: np.ndarray, volume: Volume, repair: Repair) -> tuple[np.ndarray, np.ndarray, str]:
    case, affine = repair.case, np.array(repair.case.affine)
    place = placement(volume.shape, volume.affine, case.shape, affine)
    if volume.channels == 1 and repair.values is not None and repair.values == repair.written:
        return place.apply(whole[0]), affine, case.image
    numbers = from_one_hot(whole, volume.path) if volume.channels > 1 else to_classes(whole[0], repair.values)
    voxels = numbers.astype(np.float32 if repair.written else numbers.dtype)
    for number, value in enumerate(repair.written or ()):
        voxels[numbers == number] = value
    whole_numbers = bool((voxels == np.rint(voxels)).all())
    kinds = [kind for kind in (np.uint8, np.int16) if whole_numbers and _holds(kind, voxels)]
    return place.apply(voxels).astype((*kinds, np.float32)[0]), affine, case.image


def _holds(kind: type[np.integer], voxels: np.ndarray) -> bool:
    return np.iinfo(kind).min <= voxels.min() and voxels.max() <= np.iinfo(kind).max
