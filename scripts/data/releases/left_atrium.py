# SPDX-License-Identifier: Apache-2.0
"""2018 Atrial Segmentation Challenge (Xiong et al., Medical Image Analysis 2021): one folder a case, NRRD."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from ..io.formats.hdf5 import BENCHMARK_FILE, BENCHMARK_SPACING
from ..transforms.benchmark_crop import crop_to_label
from .release import Release, Scan, read_structure, read_voxels, standardize

PATCH_SIZE = (112, 112)
MARGINS = (10, 20)
"""Voxels beside the atrium: from 10 on, below 20, drawn for each side."""


def find_cases(source: Path) -> dict[str, tuple[Path, Path]]:
    """``CASE/lgemri.nrrd`` with ``CASE/laendo.nrrd`` beside it, at any depth; CASE names the case."""
    images = sorted(source.rglob("lgemri.nrrd"))
    return {image.parent.name: (image, image.with_name("laendo.nrrd")) for image in images}


def read_case(image_path: Path, label_path: Path) -> Scan:
    """The whole scan; the label, 255 in the release, as 1."""
    image, affine = read_voxels(image_path)
    return Scan(image, read_structure(label_path, image_path, image), affine)


def prepare_for_benchmark(scan: Scan, name: str) -> Scan:
    """Z-score of the whole scan, then cropped along x and y to the atrium and 10 to 19 voxels around it.

    The release draws the margins without a seed, so its boxes cannot be repeated; here they are drawn by the case's
    name. As in the benchmark's HDF5 files the axes are taken as R, A, S and the origin as 0.

    Source: Yu et al., UA-MT, MICCAI 2019.
    """
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    margins = [(int(before), int(behind)) for before, behind in draw.integers(*MARGINS, size=(2, 2))]
    image, label = crop_to_label(standardize(scan.image), scan.label, PATCH_SIZE, margins)
    return Scan(image, label, np.diag([*BENCHMARK_SPACING[BENCHMARK_FILE], 1.0]))


LEFT_ATRIUM = Release(
    title="2018 Atrial Segmentation Challenge",
    classes=("background", "left atrium"),
    layout="CASE/lgemri.nrrd with CASE/laendo.nrrd",
    find=find_cases,
    read=read_case,
    benchmark=prepare_for_benchmark,
    oracle=True,
    labeled=(4, 8, 16),
)
