# SPDX-License-Identifier: Apache-2.0
"""DICOM's own labels, segmentations (SEG) and contours (RTSTRUCT), on the voxels of the scan that they belong to."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ...errors import DataError
from .formats.dicom import DAMAGED, DicomVolume, files_of
from .formats.grids import placement

__all__ = ["DicomLabel", "dicom_labels", "draw_label", "labels_of_scans", "number_structures"]

Name = TypeVar("Name", bound=Hashable)

_KINDS = {"SEG": "a segmentation", "RTSTRUCT": "contours"}

_BETWEEN = 0.1
"""How far a contour may lie from its slice, as a fraction of the gap between slices."""


@dataclass(frozen=True)
class DicomLabel:
    """A SEG or RTSTRUCT file: its ``kind``, the ``series`` it was drawn on, its ``names`` of structures in order."""

    file: str
    kind: str
    series: str
    names: tuple[str, ...]


def dicom_labels(path: str | os.PathLike) -> list[DicomLabel]:
    """The SEG and RTSTRUCT files in a folder, at any depth, or the file itself if it is one.

    Raises:
        DataError: when one does not say on which series it was drawn, or has two structures of one name.

    Source: ours.
    """
    return [_label(file) for file in files_of(os.fspath(path)) if _kind(file) in _KINDS]


def _kind(file: str) -> str:
    import pydicom

    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["Modality"])
    except Exception:
        return ""
    return str(header.get("Modality", ""))


def _read(file: str) -> Any:
    import pydicom

    try:
        return pydicom.dcmread(file)
    except DAMAGED as error:
        raise DataError(f"{file}: cannot be read as DICOM ({error}). Export it again.") from error


def _label(file: str) -> DicomLabel:
    content = _read(file)
    kind = str(content.Modality)
    try:
        if kind == "SEG":
            series = str(content.ReferencedSeriesSequence[0].SeriesInstanceUID)
            names = [str(one.SegmentLabel) for one in content.SegmentSequence]
        else:
            study = content.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
            series = str(study.RTReferencedSeriesSequence[0].SeriesInstanceUID)
            names = [str(one.ROIName) for one in content.StructureSetROISequence]
    except DAMAGED as error:
        raise DataError(
            f"{file}: {_KINDS[kind]} without the scan or the names that belong to it ({error}). Export it again."
        ) from error
    if len(set(names)) < len(names):
        raise DataError(
            f"{file}: two structures of one name among {', '.join(names)}. Rename one, and export it again."
        )
    return DicomLabel(file, kind, series, tuple(names))


def draw_label(label: DicomLabel, scan: DicomVolume, classes: Mapping[str, int]) -> np.ndarray:
    """The label on its scan's voxels, ``[X, Y, Z]``, 8 bit, 0 where nothing was drawn.

    A voxel is in a contour when its centre is; a contour within another one of the structure is a hole.

    Args:
        label: from :func:`dicom_labels`.
        scan: the series that it was drawn on.
        classes: number of each structure to take; the others are left out.

    Raises:
        DataError: when it does not lie on the scan's voxels, or two structures have a voxel in common.

    Source: ours; the meaning of the attributes is that of DICOM PS3.3, C.8.20 and C.8.8.6.
    """
    content = _read(label.file)
    masks = (_of_segmentation if label.kind == "SEG" else _of_contours)(label, content, scan, classes)
    drawn = np.zeros(scan.shape, np.uint8)
    names = {number: name for name, number in classes.items()}
    for name, mask in masks.items():
        if (shared := drawn[mask]).any():
            other = names[int(shared[shared > 0][0])]
            raise DataError(
                f"{label.file}: {int((shared > 0).sum())} voxels are in {name} and in {other}. A voxel has one class: "
                f"name the structures to take, none within another, with --segments, e.g. --segments {name}."
            )
        drawn[mask] = classes[name]
    return drawn


def _of_segmentation(
    label: DicomLabel, content: Any, scan: DicomVolume, classes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    wanted = {int(one.SegmentNumber): str(one.SegmentLabel) for one in content.SegmentSequence}
    wanted = {number: name for number, name in wanted.items() if name in classes}
    masks = {name: np.zeros(scan.shape, bool) for name in wanted.values()}
    try:
        frames = content.pixel_array.reshape(-1, content.Rows, content.Columns)
        most = int(content.get("MaximumFractionalValue") or 1) if content.SegmentationType == "FRACTIONAL" else 1
        shared = content.SharedFunctionalGroupsSequence[0]
        for frame, own in zip(frames, content.PerFrameFunctionalGroupsSequence, strict=True):
            number = int(_group(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            if number not in wanted or not frame.any():
                continue
            if not np.isin(frame, (0, most)).all():
                raise DataError(f"{label.file}: a segmentation of probabilities. Export one of whole voxels.")
            directions = np.array(_group(own, shared, "PlaneOrientationSequence").ImageOrientationPatient, float)
            spacing = np.array(_group(own, shared, "PixelMeasuresSequence").PixelSpacing, float)
            position = np.array(_group(own, shared, "PlanePositionSequence").ImagePositionPatient, float)
            masks[wanted[number]] |= _on_scan(label, frame > 0, position, directions.reshape(2, 3), spacing, scan)
    except (*DAMAGED, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{label.file}: cannot be read as a segmentation ({error}). Export it again.") from error
    return masks


def _group(own: Any, shared: Any, name: str) -> Any:
    return (own if name in own else shared)[name].value[0]


def _on_scan(
    label: DicomLabel,
    frame: np.ndarray,
    position: np.ndarray,
    directions: np.ndarray,
    spacing: np.ndarray,
    scan: DicomVolume,
) -> np.ndarray:
    """One frame ``[rows, columns]`` in the place that its header gives it on the scan's voxels."""
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions[0] * spacing[1], directions[1] * spacing[0]
    normal = np.cross(*directions)
    steps = scan.affine[:3, :3] * [[-1], [-1], [1]]
    affine[:3, 2] = normal * np.abs(normal @ steps).max()  # as thick as a voxel of the scan
    affine[:3, 3] = position
    affine[:2] *= -1
    voxels = frame.T[..., None]
    place = placement(voxels.shape, affine, scan.shape, scan.affine)
    if place is None:
        raise DataError(f"{label.file}: a frame that is not on the voxels of its scan. Export it on the scan's grid.")
    return place.apply(voxels)


def _of_contours(
    label: DicomLabel, content: Any, scan: DicomVolume, classes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    from matplotlib.path import Path as Polygon

    names = {int(one.ROINumber): str(one.ROIName) for one in content.StructureSetROISequence}
    to_voxels = np.linalg.inv(scan.affine)
    masks: dict[str, np.ndarray] = {}
    for structure in content.get("ROIContourSequence") or []:
        name = names.get(int(structure.ReferencedROINumber))
        if name not in classes:
            continue
        mask = masks.setdefault(name, np.zeros(scan.shape, bool))
        for contour in structure.get("ContourSequence") or []:
            if contour.ContourGeometricType != "CLOSED_PLANAR":
                continue  # points and open lines enclose nothing
            points = np.array(contour.ContourData, float).reshape(-1, 3) * [-1, -1, 1]
            points = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
            height = round(float(points[:, 2].mean()))
            if np.abs(points[:, 2] - height).max() > _BETWEEN or not 0 <= height < scan.shape[2]:
                raise DataError(
                    f"{label.file}: a contour of {name} that lies on none of the scan's slices. Export both again."
                )
            _flip_inside(mask[..., height], Polygon(points[:, :2]))
    return masks


def _flip_inside(plane: np.ndarray, polygon: Any) -> None:
    """Turn over the voxels ``[X, Y]`` whose centres are inside, so that what lies inside twice is a hole."""
    low = np.maximum(np.floor(polygon.vertices.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(polygon.vertices.max(0)).astype(int) + 1, plane.shape)
    if (low >= high).any():
        return
    x, y = np.meshgrid(*(np.arange(first, last) for first, last in zip(low, high, strict=True)), indexing="ij")
    inside = polygon.contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(x.shape)
    plane[low[0] : high[0], low[1] : high[1]] ^= inside


def labels_of_scans(
    labels: Sequence[DicomLabel], scans: Mapping[Name, DicomVolume]
) -> dict[Name, tuple[DicomLabel, DicomVolume]]:
    """``{name of a scan: (its label, the scan)}``, by the series that each label was drawn on (ours).

    Raises:
        DataError: when a series is not among the scans, or one has two labels.
    """
    names = {scan.series: name for name, scan in scans.items()}
    drawn: dict[Name, tuple[DicomLabel, DicomVolume]] = {}
    for label in labels:
        if label.series not in names:
            raise DataError(
                f"{label.file}: drawn on the series {label.series}, which is not there. Copy that there, too."
            )
        name = names[label.series]
        if name in drawn:
            raise DataError(
                f"{label.file}: a second label of one scan, beside {drawn[name][0].file}. Keep one of them."
            )
        drawn[name] = label, scans[name]
    return drawn


def number_structures(labels: Sequence[DicomLabel], segments: Sequence[str] | None) -> dict[str, int]:
    """The class of each structure: in the order given, else of all names by the alphabet, from 1 on (ours).

    Raises:
        DataError: when a structure is in none of the labels, or there are too many.
    """
    known = sorted({name for label in labels for name in label.names})
    if missing := [name for name in segments or [] if name not in known]:
        raise DataError(f"--segments {missing[0]}: no such structure; there are {', '.join(known)}. Correct it.")
    chosen = list(dict.fromkeys(segments or known))
    if len(chosen) > 255:
        raise DataError(f"{len(chosen)} structures, more than 255. Name those to take with --segments.")
    return {name: number for number, name in enumerate(chosen, start=1)}
