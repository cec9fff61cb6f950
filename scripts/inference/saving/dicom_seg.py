# SPDX-License-Identifier: Apache-2.0
"""A segmentation of a DICOM series as a DICOM SEG object that refers to it."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from monai.utils import optional_import

from ...bundle_files import CONFIGS
from ...data.io.formats.dicom import dicom_volume
from ...errors import DataError
from ...files import replace_file

__all__ = ["find_highdicom", "save_dicom_seg", "why_no_dicom_seg"]

MAKER = "dualseg"
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""What DICOM wants to be there, if only empty (type 2), and an anonymised series may lack."""


def find_highdicom() -> ModuleType:
    """The package that writes DICOM SEG, told not to log every attribute that it copies.

    Raises:
        DataError: when it is not installed.
    """
    highdicom, installed = optional_import("highdicom")
    if not installed:
        raise DataError('DICOM SEG takes highdicom: pip install "dualseg[dicom]", or --format nifti.')
    logging.getLogger("highdicom").setLevel(logging.WARNING)
    return highdicom


def save_dicom_seg(voxels: np.ndarray, path: Path, series: str | os.PathLike, labels: Mapping[int, str]) -> None:
    """Write class numbers as DICOM SEG (binary, a segment a class), whole or not at all (ours).

    Patient, study and frame of reference are those of the series; each frame refers to its slice. All structures have
    the code "anatomical structure" (SNOMED CT), and their names as labels.

    Args:
        voxels: class numbers [X, Y, Z] on the grid of the series: column, row, slice.
        path: the file, ``NAME_seg.dcm``.
        series: folder or file that was segmented, as :func:`~..data.io.formats.dicom.dicom_volume` takes it.
        labels: {class number: name}; 0 is the background.

    Raises:
        DataError: when highdicom is missing, or the series lacks what DICOM SEG has to refer to.
    """
    made = _segmentation(voxels, series, labels)
    with replace_file(path) as temporary:
        made.save_as(temporary)


def why_no_dicom_seg(series: str | os.PathLike, labels: Mapping[int, str]) -> str | None:
    """What keeps a DICOM SEG from referring to this series, None if nothing does: tried with an empty one (ours)."""
    try:
        _segmentation(np.zeros(dicom_volume(series).shape, np.uint8), series, labels)
    except DataError as error:
        return str(error)
    return None


def _segmentation(voxels: np.ndarray, series: str | os.PathLike, labels: Mapping[int, str]) -> Any:
    highdicom = find_highdicom()
    import pydicom
    from pydicom.sr.codedict import codes

    volume = dicom_volume(series)
    if tuple(voxels.shape) != volume.shape:
        raise DataError(f"{series}: has changed since it was read: {volume.shape} voxels. Start again.")
    sources = [pydicom.dcmread(file) for file in dict.fromkeys(volume.files)]
    for source, name in itertools.product(sources, MAY_BE_EMPTY):
        if name not in source:
            setattr(source, name, "")
    planes = np.ascontiguousarray(voxels.transpose(2, 1, 0)).astype(np.uint8)
    if volume.frames[0] is not None:  # frames of one file, in the file's order
        if len(sources) > 1 or sorted(volume.frames) != list(range(int(sources[0].NumberOfFrames))):
            raise DataError(f"{series}: only some frames of a file are the scan. Use --format nifti.")
        planes = planes[np.argsort(volume.frames)]
    version = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["version"]
    made_by = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, version=version, family=codes.DCM.ArtificialIntelligence
    )
    structure = codes.SCT.AnatomicalStructure
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=value,
            segment_label=name[:64],
            segmented_property_category=structure,
            segmented_property_type=structure,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for value, name in sorted(labels.items())
        if value > 0
    ]
    try:
        return highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=planes,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=version,
            device_serial_number="none",
            series_description=f"{MAKER} segmentation",
            omit_empty_frames=bool(planes.any()),
        )
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{series}: no DICOM SEG can refer to it ({error}). Use --format nifti.") from error
