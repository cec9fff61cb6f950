# SPDX-License-Identifier: Apache-2.0
"""Write scans of any readable format as NIfTI, voxels and geometry unchanged."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.transforms import LoadImage

from ..errors import DataError
from ..progress import track
from .io.dicom_labels import DicomLabel, dicom_labels, draw_label, labels_of_scans, number_structures
from .io.formats.dicom import dicom_volume, files_of, is_dicom
from .io.formats.hdf5 import BENCHMARK_FILE, DATASET_MARK, H5_SUFFIXES, split_dataset
from .io.formats.names import DICOM_SUFFIXES, VOLUME_SUFFIXES, looks_like_dicom, scan_stem
from .io.formats.nifti import save_nifti
from .io.label_values import to_classes
from .io.readers import H5Reader
from .io.segment_names import common_values
from .io.volumes import open_volume

logger = logging.getLogger(__name__)


def convert_scans(
    source: str | os.PathLike,
    output: str | os.PathLike,
    spacing: Sequence[float] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    segments: Sequence[str] | None = None,
) -> list[str]:
    """Convert a scan, or all scans below a folder, to ``.nii.gz`` under ``output``.

    Folders keep their structure; a DICOM series becomes a file named as its folder. A benchmark HDF5 file becomes
    ``images/NAME.nii.gz`` and, where it has a label, ``labels/NAME.nii.gz``; the name is that of its folder when the
    file is called ``mri_norm2.h5``, else its own. DICOM segmentations (SEG) and contours (RTSTRUCT) become
    ``NAME_label.nii.gz`` beside the scan that they were drawn on, class numbers by the structures' names.

    Args:
        source: NIfTI, NRRD, MetaImage or HDF5 file, folder of a DICOM series, or a folder of these.
        output: folder for the NIfTI files.
        spacing: voxel size in mm for HDF5 files, which hold none; default as in :class:`H5Reader`.
        overwrite: whether files that exist may be replaced.
        progress: whether to show a progress bar.
        segments: names of the structures of SEG and RTSTRUCT files that are the classes 1, 2, ...; default: all, by the
            alphabet.

    Returns:
        The files written.

    Raises:
        DataError: when there is nothing to convert, two scans would get one name, a file exists or cannot be written,
            or a scan cannot be read. Nothing is written before the names are known to be free.

    Source: ours.
    """
    source, output = Path(source), Path(output)
    if spacing is not None:
        spacing = _checked_spacing(spacing)
    jobs: dict[Path, str] = {}
    scans = _scans_below(source)
    labels = [label for scan in scans if is_dicom(scan) for label in dicom_labels(split_dataset(str(scan))[0])]
    scans = [scan for scan in scans if not (is_dicom(scan) and _holds_only(scan, labels))]
    for scan in scans:
        for target, path in _targets(source, scan):
            if target in jobs:
                raise DataError(f"{path}: would become {target}, as would {jobs[target]}. Convert them to two folders.")
            jobs[target] = path
    if not jobs:
        raise DataError(f"{source}: nothing to convert. Looked for {_formats()} and folders of DICOM files.")
    series = {target: dicom_volume(path) for target, path in jobs.items() if labels and is_dicom(path)}
    drawn = {_label_beside(target): pair for target, pair in labels_of_scans(labels, series).items()}
    taken = [output / target for target in (*jobs, *drawn) if (output / target).exists()]
    if taken and not overwrite:
        raise DataError(f"{taken[0]}: exists already ({len(taken)} such). Name another folder, or add --overwrite.")
    names, own = common_values(jobs.values())
    for target, path in track(jobs.items(), len(jobs), "Converting", progress):
        _convert(path, output / target, spacing, own.get(path))
    if names:
        _say_classes(names)
    classes = number_structures(labels, segments)
    for target, (label, scan) in drawn.items():
        save_nifti(draw_label(label, scan, classes), scan.affine, output / target)
    if classes:
        _say_classes({number: name for name, number in classes.items()})
    return [str(output / target) for target in (*jobs, *drawn)]


def _say_classes(names: Mapping[int, str]) -> None:
    listed = ", ".join(f"{number} {name}" for number, name in sorted(names.items()))
    logger.warning("The classes of the labels are 0 background, %s", listed)


def _holds_only(scan: Path, labels: Sequence[DicomLabel]) -> bool:
    """Whether all DICOM files of a folder are labels."""
    files = {label.file for label in labels}
    return all(file in files for file in files_of(split_dataset(str(scan))[0]))


def _label_beside(target: Path) -> Path:
    return target.with_name(f"{scan_stem(target)}_label.nii.gz")


def _checked_spacing(spacing: Sequence[float]) -> Sequence[float]:
    try:
        if len(spacing) == 3 and all(0 < length < np.inf for length in spacing):
            return spacing
    except TypeError:  # no sequence, or not of numbers
        pass
    raise DataError(f"spacing {spacing!r}: must be three lengths in mm, e.g. --spacing 1,1,2.5")


def _scans_below(source: Path) -> list[Path]:
    if split_dataset(str(source))[1]:  # FOLDER::KEY
        return [source]
    if not source.exists():
        raise DataError(f"{source}: no such file or folder. Name a scan, or a folder of scans.")
    if source.is_file():
        # what is beside the scans as PNG or JPEG only shows them
        return [source] if source.name.lower().endswith((*VOLUME_SUFFIXES, *H5_SUFFIXES, *DICOM_SUFFIXES)) else []
    entries = [entry for entry in sorted(source.iterdir()) if not entry.name.startswith(".")]
    if any(looks_like_dicom(entry) for entry in entries):
        return [source]
    found: list[Path] = []
    for entry in entries:
        found += _scans_below(entry)
    return found


def _targets(source: Path, scan: Path) -> list[tuple[Path, str]]:
    """(file to write, relative to the output folder; what to read) for one scan."""
    if scan.name.lower().endswith(H5_SUFFIXES):
        name = scan.parent.name if scan.name == BENCHMARK_FILE else scan.stem
        roles = ["image"] + (["label"] if _has_label(scan) else [])
        return [(Path(f"{role}s", f"{name}.nii.gz"), f"{scan}{DATASET_MARK}{role}") for role in roles]
    below = scan.relative_to(source).parent if scan != source else Path()
    name = Path(split_dataset(str(scan))[0])
    stem = scan_stem(name) if name.suffix.lower() not in DICOM_SUFFIXES else name.stem
    return [(below / f"{name.name if name.is_dir() else stem}.nii.gz", str(scan))]


def _has_label(scan: Path) -> bool:
    try:
        with open_volume(f"{scan}{DATASET_MARK}label"):
            return True
    except DataError:
        with open_volume(f"{scan}{DATASET_MARK}image"):  # a file without label is fine, a damaged one is not
            return False


def _convert(path: str, target: Path, spacing: Sequence[float] | None, values: Sequence[float] | None) -> None:
    with open_volume(path) as volume:  # refuses, in words, whatever cannot be used
        for note in volume.notes:
            logger.warning("%s", note)
        for _ in volume.slabs():
            pass
    by_spacing = {"reader": H5Reader(spacing)} if split_dataset(path)[0].lower().endswith(H5_SUFFIXES) else {}
    data = LoadImage(**by_spacing, image_only=True, ensure_channel_first=True, dtype=None)(path)
    voxels = data.numpy()
    voxels = voxels[0] if len(voxels) == 1 else np.moveaxis(voxels, 0, -1)
    if voxels.dtype in (np.int64, np.uint64):  # which other tools do not read
        voxels = voxels.astype(np.int32) if abs(voxels).max() < 2**31 else voxels.astype(np.float64)
    if values is not None:
        voxels = to_classes(voxels, values).astype(np.uint8)
    save_nifti(voxels, data.affine, target, like=path)


def _formats() -> str:
    return ", ".join((*VOLUME_SUFFIXES, *H5_SUFFIXES))
