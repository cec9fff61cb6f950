# SPDX-License-Identifier: Apache-2.0
"""Automated Cardiac Diagnosis Challenge (Bernard et al., IEEE TMI 2018): end of diastole and of systole."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..io.label_values import to_classes
from .release import Release, Scan, read_voxels

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
HELD_OUT = {"test": 0.2, "val": 0.1}
"""Shares of the patients where the release's own test patients are not there."""


def find_cases(source: Path) -> dict[str, tuple[Path, Path]]:
    """``patient001/patient001_frame01.nii(.gz)`` with ``..._gt.nii(.gz)``, at any depth; Info.cfg names the frames.

    Raises:
        DataError: when an Info.cfg cannot be understood.
    """
    cases = {}
    for info in sorted(source.rglob("Info.cfg")):
        folder = info.parent
        for phase, frame in _frames(info).items():
            name = f"{folder.name}_frame{frame:02d}"
            image = next((file for file in (folder / f"{name}.nii.gz", folder / f"{name}.nii") if file.exists()), None)
            if image is None:
                raise DataError(
                    f"{info}: the frame {phase} is {frame}, but there is no {name}.nii.gz. Unpack it again."
                )
            cases[name] = (image, image.with_name(image.name.replace(name, f"{name}_gt")))
    return cases


def _frames(info: Path) -> dict[str, int]:
    """``{"ED": frame, "ES": frame}``."""
    try:
        text = info.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{info}: cannot be read ({error}). Unpack the release again.") from error
    found = {phase: int(frame) for phase, frame in re.findall(r"^\s*(ED|ES)\s*:\s*(\d+)\s*$", text, re.MULTILINE)}
    if len(found) < 2:
        raise DataError(f"{info}: does not name the frames ED and ES. Unpack the release again.")
    return found


def read_case(image_path: Path, label_path: Path) -> Scan:
    """The whole frame and its label, on the image's grid.

    Raises:
        DataError: when they differ in shape, or the label has other values than 0 to 3.
    """
    image, affine = read_voxels(image_path)
    label, _ = read_voxels(label_path)
    label = to_classes(label)
    if label.shape != image.shape or not np.isin(label, range(len(CLASSES))).all():
        raise DataError(
            f"{label_path}: shape {label.shape} and values {np.unique(label)[:6]}, but its image has {image.shape} and "
            "the classes are 0 to 3. Unpack the release again."
        )
    return Scan(image, label.astype(np.uint8), affine)


def split_patients(cases: Iterable[str], sources: Mapping[str, tuple[Path, Path]]) -> dict[str, list[str]]:
    """Lists of cases, patient by patient: the release's own test patients, or the last fifth in an order of chance."""
    patients: dict[str, list[str]] = {}
    for case in cases:
        patients.setdefault(case.rsplit("_", 1)[0], []).append(case)
    own_test = [name for name, members in patients.items() if "testing" in map(str.lower, sources[members[0]][0].parts)]
    order = random.Random(0).sample(sorted(set(patients) - set(own_test)), len(patients) - len(own_test))
    lists = {"test": own_test or _last(order, HELD_OUT["test"]), "val": _last(order, HELD_OUT["val"]), "train": order}
    return {name: [case for patient in listed for case in patients[patient]] for name, listed in lists.items()}


def _last(order: list[str], share: float) -> list[str]:
    """The last patients, taken out of the order."""
    count = round(share * len(order))
    taken = order[len(order) - count :]
    del order[len(order) - count :]
    return taken


ACDC = Release(
    title="ACDC",
    classes=CLASSES,
    layout="patient001/Info.cfg with patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz",
    find=find_cases,
    read=read_case,
    benchmark=None,
    oracle=False,
    labeled=(3, 7),
    patients=split_patients,
)
