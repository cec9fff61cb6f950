# SPDX-License-Identifier: Apache-2.0
"""Give scans that are DICOM the labels that were drawn on them as DICOM SEG or RTSTRUCT."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from ..errors import DataError
from .datalist.layouts.case import CaseCollection
from .datalist.layouts.folder import DICOM_LABEL, DRAWN_LABELS
from .io.dicom_labels import dicom_labels, draw_label, labels_of_scans, number_structures
from .io.formats.dicom import DicomVolume, dicom_volume, is_dicom
from .io.formats.nifti import save_nifti

__all__ = ["draw_labels"]


def draw_labels(
    found: CaseCollection, folder: Path, segments: Sequence[str] | None = None, overwrite: bool = False
) -> CaseCollection:
    """Write the SEG and RTSTRUCT files among the unused ones as ``folder/dicom_labels/CASE.nii.gz``, labels of their
    scans, which are found by the series that they were drawn on.

    Nothing is written where there is no such file. One that was drawn on a series that is not there stays unused.

    Args:
        found: of :func:`~.datalist.cases.collect_cases`.
        folder: of the datalist.
        segments: names of the structures that are the classes 1, 2, ...; default: all, by the alphabet.
        overwrite: whether a file that is there, with other content, may be replaced.

    Returns:
        The same collection, in which these scans have labels, and the classes their names.

    Raises:
        DataError: when a label or its scan cannot be used, a scan has two, a structure of ``segments`` is in none, or a
            file with other content is there already.

    Source: ours.
    """
    labels = [label for file, why in found.unused.items() if why == DICOM_LABEL for label in dicom_labels(file)]
    if not labels:
        if segments:
            raise DataError(f"{found.source}: no DICOM SEG or RTSTRUCT in it. Leave out --segments.")
        return found
    paths = {case.name: case.image for case in found.cases if isinstance(case.image, str) and case.label is None}
    scans = {name: dicom_volume(path) for name, path in paths.items() if is_dicom(path)}
    series = {scan.series for scan in scans.values()}
    drawn = labels_of_scans([label for label in labels if label.series in series], scans)
    classes = number_structures([label for label, _ in drawn.values()], segments) if drawn else {}
    files: dict[str, str] = {}
    for name, (label, scan) in drawn.items():
        target = folder / DRAWN_LABELS / f"{name}.nii.gz"
        _write(draw_label(label, scan, classes), scan, target, overwrite)
        files[name] = str(target)
        del found.unused[label.file]
    for label in labels:
        if label.file in found.unused:
            found.unused[label.file] = "SEG or RTSTRUCT, drawn on a series that is not there"
    found.cases = [dataclasses.replace(case, label=files.get(case.name, case.label)) for case in found.cases]
    if drawn:
        found.labels = {0: "background", **{number: name for name, number in classes.items()}}
    return found


def _write(voxels: np.ndarray, scan: DicomVolume, target: Path, overwrite: bool) -> None:
    """Write a label, unless the same one is there."""
    if target.exists() and not overwrite:
        there = nibabel.load(target)
        if np.array_equal(np.asarray(there.dataobj), voxels) and np.allclose(there.affine, scan.affine):
            return
        raise DataError(f"{target}: is there already, with another content. Move it, or add --overwrite.")
    save_nifti(voxels, scan.affine, target)
