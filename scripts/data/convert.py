# SPDX-License-Identifier: Apache-2.0
"""Write scans of any readable format as NIfTI, voxels and geometry unchanged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.transforms import LoadImage

from .atomic import save_nifti
from .cases import SCAN_SUFFIXES
from .errors import DataError
from .progress import track
from .readers import BENCHMARK_FILE, DATASET_MARK, H5_SUFFIXES, H5Reader
from .volumes import open_volume


def convert_scans(
    source: str | os.PathLike,
    output: str | os.PathLike,
    spacing: Sequence[float] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[str]:
    """Convert a scan, or all scans below a folder, to ``.nii.gz`` under ``output``.

    Folders keep their structure; a DICOM series becomes a file named as its folder. A benchmark HDF5 file becomes
    ``images/NAME.nii.gz`` and, where it has a label, ``labels/NAME.nii.gz``; the name is that of its folder when the
    file is called ``mri_norm2.h5``, else its own.

    Args:
        source: NIfTI, NRRD, MetaImage or HDF5 file, folder of a DICOM series, or a folder of these.
        output: folder for the NIfTI files.
        spacing: voxel size in mm for HDF5 files, which hold none; default as in :class:`H5Reader`.
        overwrite: whether files that exist may be replaced.
        progress: whether to show a progress bar.

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
    for scan in _scans_below(source):
        for target, path in _targets(source, scan):
            if target in jobs:
                raise DataError(f"{path}: would become {target}, as would {jobs[target]}. Convert them to two folders.")
            jobs[target] = path
    if not jobs:
        raise DataError(f"{source}: nothing to convert. Looked for {_formats()} and folders of .dcm files.")
    taken = [output / target for target in jobs if (output / target).exists()]
    if taken and not overwrite:
        raise DataError(f"{taken[0]}: exists already ({len(taken)} such). Name another folder, or add --overwrite.")
    for target, path in track(jobs.items(), len(jobs), "Converting", progress):
        _convert(path, output / target, spacing)
    return [str(output / target) for target in jobs]


def _checked_spacing(spacing: Sequence[float]) -> Sequence[float]:
    try:
        if len(spacing) == 3 and all(0 < length < np.inf for length in spacing):
            return spacing
    except TypeError:  # no sequence, or not of numbers
        pass
    raise DataError(f"spacing {spacing!r}: must be three lengths in mm, e.g. --spacing 1,1,2.5")


def _scans_below(source: Path) -> list[Path]:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder. Name a scan, or a folder of scans.")
    if source.is_file():
        return [source] if source.name.lower().endswith((*SCAN_SUFFIXES, *H5_SUFFIXES)) else []
    if any(source.glob("*.dcm")):
        return [source]
    found: list[Path] = []
    for entry in sorted(source.iterdir()):
        if not entry.name.startswith("."):
            found += _scans_below(entry)
    return found


def _targets(source: Path, scan: Path) -> list[tuple[Path, str]]:
    """(file to write, relative to the output folder; what to read) for one scan."""
    if scan.name.lower().endswith(H5_SUFFIXES):
        name = scan.parent.name if scan.name == BENCHMARK_FILE else scan.stem
        roles = ["image"] + (["label"] if _has_label(scan) else [])
        return [(Path(f"{role}s", f"{name}.nii.gz"), f"{scan}{DATASET_MARK}{role}") for role in roles]
    below = scan.relative_to(source).parent if scan != source else Path()
    suffix = next((s for s in SCAN_SUFFIXES if scan.is_file() and scan.name.lower().endswith(s)), "")
    return [(below / f"{scan.name[: len(scan.name) - len(suffix)]}.nii.gz", str(scan))]


def _has_label(scan: Path) -> bool:
    try:
        with open_volume(f"{scan}{DATASET_MARK}label"):
            return True
    except DataError:
        with open_volume(f"{scan}{DATASET_MARK}image"):  # a file without label is fine, a damaged one is not
            return False


def _convert(path: str, target: Path, spacing: Sequence[float] | None) -> None:
    with open_volume(path) as volume:  # refuses, in words, whatever cannot be used
        for _ in volume.slabs():
            pass
    if path.partition(DATASET_MARK)[2]:
        reader = H5Reader(spacing)
    else:  # named, since MONAI prefers pynrrd where that is installed, which makes all voxels float32
        reader = "NibabelReader" if path.lower().endswith((".nii", ".nii.gz")) else "ITKReader"
    data = LoadImage(reader, image_only=True, ensure_channel_first=True, dtype=None)(path)
    voxels = data.numpy()
    voxels = voxels[0] if len(voxels) == 1 else np.moveaxis(voxels, 0, -1)
    if voxels.dtype in (np.int64, np.uint64):  # which other tools do not read
        voxels = voxels.astype(np.int32) if abs(voxels).max() < 2**31 else voxels.astype(np.float64)
    save_nifti(voxels, data.affine, target)


def _formats() -> str:
    return ", ".join((*SCAN_SUFFIXES, *H5_SUFFIXES))
