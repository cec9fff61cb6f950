# SPDX-License-Identifier: Apache-2.0
"""NIH Pancreas-CT (Roth et al., The Cancer Imaging Archive 2016): a DICOM series a patient, labels as NIfTI."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform

from ...errors import DataError
from ..io.formats.dicom import dicom_files
from ..transforms.benchmark_crop import crop_to_label
from .release import Release, Scan, read_structure, read_voxels, standardize

WINDOW = (-125.0, 275.0)
"""Hounsfield units of soft tissue, to which the benchmark clips."""

PATCH_SIZE, MARGIN = (96, 96), 25


def find_cases(source: Path) -> dict[str, tuple[Path, Path]]:
    """``PANCREAS_0001/STUDY/SERIES/*.dcm`` with ``label0001.nii.gz``, both at any depth; the benchmark says image0001.

    A patient of several series is paired with its own folder, which then is refused when it is read.
    """
    labels = {path.name[5:9]: path for path in source.rglob("label[0-9][0-9][0-9][0-9].nii*")}
    cases = {}
    for folder in sorted(source.rglob("PANCREAS_[0-9][0-9][0-9][0-9]")):
        number = folder.name[-4:]
        series = {path.parent for path in folder.rglob("*.dcm") if not path.name.startswith(".")}
        if series:
            label = labels.get(number, source / f"label{number}.nii.gz")
            cases[f"image{number}"] = (series.pop() if len(series) == 1 else folder, label)
    return cases


def read_case(folder: Path, label_path: Path) -> Scan:
    """The whole scan in Hounsfield units, its slices in the order of the label's.

    The headers of the labels do not agree with the DICOM headers; their voxels do: x is the column, y the row, and z
    the instance number of a slice. Reading by geometry alone would turn the labels over.

    Raises:
        DataError: when the slices cannot be ordered, or hardly any labelled voxel is soft tissue.

    Source: the preparation of Wu et al., MC-Net, MICCAI 2021, and of Zhou et al., Fixed-Point Model, MICCAI 2017.
    """
    image, affine = read_voxels(folder)
    numbers = np.array([_instance_number(file) for file in dicom_files(folder)])
    steps = np.diff(numbers)
    if not (steps > 0).all():
        if not (steps < 0).all():
            raise DataError(
                f"{folder}: instance numbers and slice positions are in different orders. Download it again."
            )
        image = image[:, :, ::-1]
        affine = affine.copy()
        affine[:3, 3] += affine[:3, 2] * (len(numbers) - 1)
        affine[:3, 2] *= -1
    label = read_structure(label_path, folder, image)
    tissue = image[label > 0]
    if tissue.size and np.mean((tissue >= WINDOW[0]) & (tissue <= WINDOW[1])) < 0.5:
        raise DataError(
            f"{label_path}: most of its voxels are no soft tissue in {folder}. Is it the label of another patient?"
        )
    return Scan(image, label, affine)


def prepare_for_benchmark(scan: Scan, name: str) -> Scan:
    """1 mm by cubic splines, clipped to the window, cropped along x and y to 25 voxels around the pancreas, z-score.

    Source: Wu et al., MC-Net, MICCAI 2021.
    """
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)
    shape = tuple(int(size) for size in scan.image.shape * spacing)
    grid = {"matrix": 1 / spacing, "output_shape": shape, "mode": "mirror"}
    image = affine_transform(scan.image.astype(np.float32), order=3, **grid)
    label = affine_transform(scan.label, order=0, **grid)
    image, label = crop_to_label(image.clip(*WINDOW), label, PATCH_SIZE, [(MARGIN, MARGIN)] * 2)
    return Scan(standardize(image), label, np.eye(4))


def _instance_number(file: str) -> int:
    import itk  # takes seconds, and only this release needs it here

    reader = itk.GDCMImageIO.New()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    header = reader.GetMetaDataDictionary()
    found = re.search(r"\d+", header["0020|0013"]) if header.HasKey("0020|0013") else None
    if found is None:
        raise DataError(f"{file}: no instance number in it, by which slices and labels are paired. Download it again.")
    return int(found.group())


PANCREAS = Release(
    title="NIH Pancreas-CT",
    classes=("background", "pancreas"),
    layout="PANCREAS_0001/.../*.dcm and label0001.nii.gz",
    find=find_cases,
    read=read_case,
    benchmark=prepare_for_benchmark,
    oracle=True,
    labeled=(6, 12),
    # both show the patient of 0002; withdrawn by the archive in 2020
    copies=("image0025", "image0070"),
)
