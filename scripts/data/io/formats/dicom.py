# SPDX-License-Identifier: Apache-2.0
"""DICOM: which files are one volume, in which order, and where its voxels lie; what is no regular grid is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.errors import BytesLengthException, InvalidDicomError

from ....errors import DataError
from .hdf5 import DATASET_MARK, split_dataset
from .names import DICOM_SUFFIXES, looks_like_dicom

__all__ = ["DicomVolume", "dicom_files", "dicom_volume", "files_of", "is_dicom", "is_whole", "read_dicom"]

GAP_TOLERANCE = 0.05
"""How far a slice may lie from its place in a regular stack, as a fraction of the gap between slices."""

SAME_PLACE = 0.01
"""Slices nearer to each other than this, in mm, are at one position."""

_DIRECTION_TOLERANCE = 1e-3

_TELLING = (
    "EchoTime",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "DiffusionBValue",
    "AcquisitionNumber",
    "ImageType",
    "TriggerTime",
    "ConvolutionKernel",
    "AcquisitionTime",
    "ContentTime",
)
"""What tells the volumes of one series apart, where several slices lie at one position."""

DAMAGED = (
    *(OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, NotImplementedError),
    *(RecursionError, MemoryError, struct.error, BytesLengthException, InvalidDicomError),
)
"""What pydicom raises on files with damaged bytes, as found by changing bytes at random."""

_TAGS = [
    *_TELLING,
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "InstanceNumber",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "BitsAllocated",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_PROJECTIONS = ("CR", "DX", "MG", "IO", "PX", "RF", "RG", "XA")
"""X-ray images: each is whole by itself, and its header need not say where it lies."""
_NO_SCANS = {"SEG": "a segmentation", "RTDOSE": "a dose", "RTSTRUCT": "contours", "PR": "a presentation state"}


@dataclass
class _Slice:
    """One plane: a file, or a frame of one."""

    file: str
    frame: int | None
    series: str
    title: str
    rows: int
    columns: int
    bits: int
    position: np.ndarray
    directions: np.ndarray
    spacing: np.ndarray
    thickness: float
    rescale: tuple[float, float]
    details: dict[str, str]


@dataclass
class _Group:
    """Slices that belong together."""

    key: str
    title: str
    slices: list[_Slice]
    problem: str = ""


@dataclass(frozen=True)
class DicomVolume:
    """One volume of a folder.

    Attributes:
        files: file of each slice, sorted along the stack's normal; frames of one file repeat it.
        frames: number of the frame in that file; None for a file of a single slice.
        rescale: slope and intercept of each frame.
        shape: columns, rows, slices.
        affine: voxel indices to RAS+ mm, ``[4, 4]``; a gantry's tilt is a shear in it.
        bytes: size of the voxels as they are stored.
        notes: what a user should know of how the files were taken.
        series: its SeriesInstanceUID.
    """

    files: list[str]
    frames: list[int | None]
    rescale: list[tuple[float, float]]
    shape: tuple[int, int, int]
    affine: np.ndarray
    bytes: int
    notes: list[str] = field(default_factory=list)
    series: str = ""


def dicom_volume(path: str | os.PathLike) -> DicomVolume:
    """Find the one volume that a folder (at any depth, files of any suffix) or a file holds.

    Files are told apart by series, size and orientation and, where slices share a position, by what differs between
    them (echo, time, b-value, ...). Localizers and what is no image are left out, with a note.

    Args:
        path: a folder or a file; ``FOLDER::KEY`` names one of several volumes, by the key that the error has listed.

    Raises:
        DataError: when there is no volume or there are several, or the slices make no regular grid: unequal gaps,
            several slices at a position, other spacings or directions.

    Source: ours; the geometry is that of DICOM PS3.3, C.7.6.2.
    """
    path = os.fspath(path)
    folder, wanted = split_dataset(path)
    slices, left_out = _slices_of(folder)
    groups = _groups_of(slices)
    if wanted:
        groups = [group for group in groups if group.key == wanted] or groups
        if len(groups) != 1 or groups[0].key != wanted:
            raise DataError(f"{path}: no such volume. The folder has {_listed(groups)}. Correct the path.")
    if not groups:
        why = f" ({'; '.join(left_out[:3])})" if left_out else ""
        raise DataError(
            f"{folder}: a folder with no DICOM series in it{why}. A scan is a file, or a folder of exactly one series."
            if os.path.isdir(folder)
            else f"{folder}: no image that can be used{why}. Export the scan itself."
        )
    if len(groups) > 1:
        raise DataError(
            f"{folder}: a folder with {len(groups)} DICOM series in it. A scan is a file, or a folder of exactly one "
            f"series. Move each to its own folder, or name one as {folder}{DATASET_MARK}{groups[0].key}. There are "
            f"{_listed(groups)}."
        )
    return _stack(folder, groups[0], left_out)


def dicom_files(folder: str | os.PathLike) -> list[str]:
    """The files of a folder's one volume, in the order of its slices; raises as :func:`dicom_volume` does."""
    return dicom_volume(folder).files


def read_dicom(volume: DicomVolume) -> np.ndarray:
    """The voxels ``[X, Y, Z]`` (column, row, slice), each slice with its own rescaling."""
    import itk  # takes seconds, and most users have NIfTI

    planes, frames_of = [], {}
    for file, frame, (slope, intercept) in zip(volume.files, volume.frames, volume.rescale, strict=True):
        if frame is None:
            _refuse_damage(file)
            plane = np.asarray(itk.array_from_image(itk.imread(file)))
            planes.append(plane.reshape(plane.shape[-2:]))
            continue
        if file not in frames_of:
            import pydicom

            frames_of = {file: pydicom.dcmread(file).pixel_array}
        stored = frames_of[file][frame]
        planes.append(stored if (slope, intercept) == (1, 0) else stored * slope + intercept)
    return np.ascontiguousarray(np.stack(planes).T)


def _refuse_damage(file: str) -> None:
    """Refuse a file whose elements do not fit into it: GDCM would wait half a minute for the rest, in gigabytes."""
    import pydicom

    try:
        content = pydicom.dcmread(file, force=True)
        voxels = content.get("PixelData") or b""
        native = not content.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian).is_compressed
        needed = int(content.Rows) * int(content.Columns) * int(content.BitsAllocated) // 8 if native else 1
        for element in content:
            _ = element.value
    except DAMAGED as error:
        raise DataError(f"{file}: damaged ({error}). Copy or export it again.") from error
    if len(voxels) < needed:
        raise DataError(f"{file}: truncated or damaged, {len(voxels)} bytes of voxels. Copy or export it again.")


def _slices_of(path: str) -> tuple[list[_Slice], list[str]]:
    """The slices in all files below, and what was left out."""
    slices: list[_Slice] = []
    left_out: list[str] = []
    instances: dict[str, str] = {}
    for file in files_of(path):
        header = _header(file)
        if header is None:
            left_out.append(f"{file}: no DICOM file")
            continue
        reason = _no_slice(header)
        if reason:
            left_out.append(f"{file}: {reason}")
            continue
        instance = str(header.get("SOPInstanceUID", file))
        first = instances.setdefault(instance, file)
        if first != file:
            if Path(first).read_bytes() != Path(file).read_bytes():
                raise DataError(f"{file}: the same instance number as {first}, but other content. Keep one of them.")
            left_out.append(f"{file}: a copy of {first}")
            continue
        try:
            slices += _slices_in(file, header)
        except DAMAGED as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{file}: cannot be read as DICOM ({error}). Copy or export it again.") from error
    return slices, left_out


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a scan's path, perhaps ``FOLDER::SERIES``, is that of DICOM files, by its name or as a folder."""
    file = split_dataset(os.fspath(path))[0]
    return os.path.isdir(file) or file.lower().endswith(DICOM_SUFFIXES)


def is_whole(file: str | os.PathLike) -> bool:
    """Whether a DICOM file is a scan by itself, of several frames or an X-ray image, and no slice of a series."""
    import pydicom

    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["NumberOfFrames", "Modality"])
        return int(header.get("NumberOfFrames") or 1) > 1 or header.get("Modality") in _PROJECTIONS
    except (InvalidDicomError, OSError, ValueError, TypeError, EOFError):
        return False


def files_of(path: str) -> list[str]:
    """All files below a folder that look like DICOM; a file's path itself."""
    if os.path.isfile(path):
        return [path]
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(folder, name) for name in sorted(files) if looks_like_dicom(Path(folder, name))]
    return found


def _header(file: str) -> Any:
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        meta = pydicom.filereader.read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:  # unpacked in memory, however large it is
            raise DataError(f"{file}: a deflated file. Unpack it with `dcmconv +te`, or convert it to NIfTI.")
        header = pydicom.dcmread(
            file, stop_before_pixels=True, force=file.lower().endswith(DICOM_SUFFIXES), specific_tags=_TAGS
        )
        header.walk(lambda _, element: element.value)  # values are parsed when they are asked for: now
    except (InvalidDicomError, EOFError):
        return None
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"{file}: cannot be read as DICOM ({error}). Copy or export it again.") from error
    return header if "SOPClassUID" in header or "Rows" in header else None


def _no_slice(header: Any) -> str:
    """Why a file is no slice of a scan; empty where it is one."""
    if "Rows" not in header or header.get("Modality") in _NO_SCANS:
        return f"no scan but {_NO_SCANS.get(header.get('Modality'), 'a file without voxels')}"
    if "LOCALIZER" in (header.get("ImageType") or []):
        return "a localizer"
    if header.get("SamplesPerPixel", 1) != 1:
        return "a colour picture"
    return ""


def _slices_in(file: str, header: Any) -> Iterator[_Slice]:
    frames = int(header.get("NumberOfFrames") or 1)
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if per_frame is None:
        if frames > 1:
            raise DataError(f"{file}: {frames} frames without positions. Export it as a series or as enhanced DICOM.")
        yield _slice(file, None, header, [header])
        return
    if header.file_meta.TransferSyntaxUID.is_compressed:
        raise DataError(f"{file}: compressed frames. Unpack it with `gdcmconv --raw`, or convert it to NIfTI.")
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    for number, own in enumerate(per_frame):
        parts = [part[0] for group in (own, *shared) for part in (item.value for item in group) if _is_sequence(part)]
        yield _slice(file, number, header, [*parts, header])


def _is_sequence(value: Any) -> bool:
    import pydicom

    return isinstance(value, pydicom.Sequence) and len(value) > 0


def _slice(file: str, frame: int | None, header: Any, places: Sequence[Any]) -> _Slice:
    def find(tag: str) -> Any:
        return next((place[tag].value for place in places if tag in place and place[tag].value is not None), None)

    def numbers(tag: str, count: int, what: str) -> np.ndarray:
        try:
            values = np.array([float(value) for value in find(tag)])
        except (TypeError, ValueError):
            values = np.empty(0)
        if len(values) != count or not np.isfinite(values).all():
            raise DataError(f"{file}: no {what} ({tag}), so nobody knows where its voxels lie. Export the scan again.")
        return values

    if frame is None and header.get("Modality") in _PROJECTIONS and find("ImageOrientationPatient") is None:
        sized = next((tag for tag in ("PixelSpacing", "ImagerPixelSpacing") if find(tag) is not None), None)
        directions, position, thickness = np.eye(2, 3), np.zeros(3), 1.0
        spacing = np.ones(2) if sized is None else numbers(sized, 2, "pixel spacing")
    else:
        directions = numbers("ImageOrientationPatient", 6, "directions").reshape(2, 3)
        position, spacing = numbers("ImagePositionPatient", 3, "position"), numbers("PixelSpacing", 2, "pixel spacing")
        thickness = float(find("SpacingBetweenSlices") or find("SliceThickness") or 0)
    skew = np.abs(directions @ directions.T - np.eye(2)).max()
    if skew > _DIRECTION_TOLERANCE or spacing.min() <= 0:
        raise DataError(f"{file}: directions {directions.tolist()} or spacing {spacing.tolist()} make no grid.")
    return _Slice(
        file,
        frame,
        str(header.get("SeriesInstanceUID", "unnamed")),
        f"{header.get('Modality', 'unknown modality')} {header.get('SeriesDescription', '')}".strip(),
        int(header.Rows),
        int(header.Columns),
        int(header.get("BitsAllocated", 16)),
        position,
        directions,
        spacing,
        thickness,
        (float(find("RescaleSlope") or 1), float(find("RescaleIntercept") or 0)) if frame is not None else (1.0, 0.0),
        {tag: str(value) for tag in _TELLING if (value := find(tag)) is not None},
    )


def _groups_of(slices: Iterable[_Slice]) -> list[_Group]:
    """Slices by series, size and orientation; a group with several slices at a position is split by what differs."""
    parts: list[list[_Slice]] = []
    for one in slices:
        part = next((part for part in parts if _fits(one, part[0])), None)
        if part is None:
            parts.append(part := [])
        part.append(one)
    parts.sort(key=lambda part: part[0].series)
    groups = []
    for uid in dict.fromkeys(part[0].series for part in parts):
        own = [split for part in parts if part[0].series == uid for split in _told_apart(part)]
        for number, (words, members, problem) in enumerate(own, start=1):
            first = members[0]
            size = f"{len(members)} slices of {first.columns} x {first.rows}"
            title = ", ".join(word for word in (first.title, words, size) if word)
            groups.append(_Group(uid if len(own) == 1 else f"{uid}-{number}", title, members, problem))
    return groups


def _fits(one: _Slice, other: _Slice) -> bool:
    return (one.series, one.rows, one.columns) == (other.series, other.rows, other.columns) and bool(
        np.abs(one.directions - other.directions).max() < _DIRECTION_TOLERANCE
    )


def _places(slices: Sequence[_Slice]) -> int:
    """At how many positions along their normal the slices lie."""
    heights = np.sort(_heights(slices))
    return 1 + int((np.diff(heights) > SAME_PLACE).sum())


def _heights(slices: Sequence[_Slice]) -> np.ndarray:
    return np.array([one.position for one in slices]) @ np.cross(*slices[0].directions)


def _told_apart(slices: list[_Slice]) -> list[tuple[str, list[_Slice], str]]:
    """The volumes among slices of one series: (what is special, slices, why they are none)."""
    places = _places(slices)
    if places == len(slices):
        return [("", slices, "")]
    for tag in _TELLING:
        by_value: dict[str, list[_Slice]] = {}
        for one in slices:
            by_value.setdefault(one.details.get(tag, ""), []).append(one)
        if len(by_value) > 1 and all(_places(part) == len(part) == places for part in by_value.values()):
            return [(f"{tag} {value}", part, "") for value, part in by_value.items()]
    problem = (
        f"{len(slices)} slices at {places} positions: several volumes in one series, e.g. time points, and nothing "
        "in the headers tells them apart. Move the files of each to a folder of its own"
    )
    return [("", slices, problem)]


def _stack(folder: str, group: _Group, left_out: list[str]) -> DicomVolume:
    if group.problem:
        raise DataError(f"{folder}: {group.problem}.")
    heights = _heights(group.slices)
    slices = [group.slices[i] for i in np.argsort(heights)]
    first, notes = slices[0], []
    for one in slices:
        if np.abs(one.spacing / first.spacing - 1).max() > _DIRECTION_TOLERANCE:
            raise DataError(f"{one.file}: pixel spacing {one.spacing} mm, but {first.file} has {first.spacing}.")
    if left_out:
        notes.append(f"{folder}: {len(left_out)} files are not used: {'; '.join(left_out[:3])}")
    step, note = _step(folder, slices)
    notes += [note] if note else []
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    affine[:2] *= -1  # DICOM's axes point left and posterior
    shape = (first.columns, first.rows, len(slices))
    size = int(np.prod(shape)) * max(1, first.bits // 8)
    rescale = [one.rescale for one in slices]
    return DicomVolume(
        [s.file for s in slices], [s.frame for s in slices], rescale, shape, affine, size, notes, first.series
    )


def _step(folder: str, slices: list[_Slice]) -> tuple[np.ndarray, str]:
    """From one slice to the next, in mm (LPS), and a note where it is special."""
    first = slices[0]
    normal = np.cross(*first.directions)
    if len(slices) == 1:
        if first.thickness <= 0:
            raise DataError(f"{first.file}: a single slice without a thickness (SliceThickness). Export it again.")
        return normal * first.thickness, ""
    positions = np.array([one.position for one in slices])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    away = positions - positions[0] - np.arange(len(slices))[:, None] * step
    if np.abs(away @ normal).max() > GAP_TOLERANCE * usual:
        worst = int(np.abs(gaps - usual).argmax())
        low, high = (positions @ normal)[worst : worst + 2]
        raise DataError(
            f"{folder}: unequal gaps between slices: {gaps[worst]:.4g} mm from {low:.5g} to {high:.5g} mm, elsewhere "
            f"{usual:.4g} mm. Slices are missing or mixed: fetch the whole series, or resample it with another tool."
        )
    if np.linalg.norm(away, axis=1).max() > max(GAP_TOLERANCE * usual, SAME_PLACE):
        raise DataError(f"{folder}: slices that are shifted unevenly against each other. Export the series again.")
    sideways = float(np.linalg.norm(step - (step @ normal) * normal))
    if sideways * (len(slices) - 1) <= GAP_TOLERANCE * usual:
        return step, ""
    tilt = np.degrees(np.arctan2(sideways, step @ normal))
    return step, f"{folder}: slices are tilted by {tilt:.1f} degrees; the shear is kept."


def _listed(groups: Sequence[_Group]) -> str:
    shown = "; ".join(f"{group.key} ({group.title})" for group in groups[:8])
    return shown + (f"; ... {len(groups)} in all" if len(groups) > 8 else "")
