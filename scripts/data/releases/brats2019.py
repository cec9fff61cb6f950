# SPDX-License-Identifier: Apache-2.0
"""BraTS 2019 (Menze et al., IEEE TMI 2015; Bakas et al., 2018): FLAIR and the whole tumour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .release import Release, Scan, read_structure, read_voxels, standardize

CLIPPED_QUANTILE = 0.999


def find_cases(source: Path) -> dict[str, tuple[Path, Path]]:
    """``{HGG,LGG}/CASE/CASE_flair.nii(.gz)`` with ``CASE_seg.nii(.gz)`` beside it, at any depth."""
    cases = {}
    for image in sorted(path for path in source.rglob("*_flair.nii*") if not path.name.startswith(".")):
        name, suffix = image.name.split("_flair", 1)
        cases[name] = (image, image.with_name(f"{name}_seg{suffix}"))
    return cases


def read_case(image_path: Path, label_path: Path) -> Scan:
    """The whole FLAIR scan; the tumour's parts 1, 2 and 4 as 1."""
    image, affine = read_voxels(image_path)
    return Scan(image, read_structure(label_path, image_path, image), affine)


def prepare_for_benchmark(scan: Scan, name: str) -> Scan:
    """Cropped to the brain, clipped at the 99.9 percent quantile, z-score by the brain's voxels. No label is looked at.

    Source: Luo, SSL4MIS, 2020, whose box leaves out the brain's last plane along each axis.
    """
    box = []
    for axis in range(3):
        inside = np.flatnonzero(scan.image.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(inside[0]), int(inside[-1])))
    image, label = scan.image[tuple(box)], scan.label[tuple(box)]
    image = image.clip(None, np.quantile(image, CLIPPED_QUANTILE, method="inverted_cdf"))
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]
    return Scan(standardize(image, image > 0), label, affine)


BRATS2019 = Release(
    title="BraTS 2019",
    classes=("background", "whole tumour"),
    layout="CASE/CASE_flair.nii.gz with CASE/CASE_seg.nii.gz",
    find=find_cases,
    read=read_case,
    benchmark=prepare_for_benchmark,
    oracle=False,
    labeled=(25, 50),
)
