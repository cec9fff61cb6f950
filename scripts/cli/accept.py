# SPDX-License-Identifier: Apache-2.0
"""``dualseg accept``: segmentations that a person has looked at become labels."""

# No postponed annotations here: Fire shows them as they are.

import filecmp
import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ..data.datalist.check import inspect_data
from ..data.datalist.read import SECTIONS, image_files, load_datalist, read_content
from ..data.datalist.write import save_content
from ..data.io.formats.names import SCAN_SUFFIXES, label_of, names_a_label, prediction_name, scan_stem
from ..data.io.label_values import VALUES
from ..data.io.segment_names import give_values
from ..errors import DataError
from ..files import replace_file
from .words import text, words

__all__ = ["accept"]

LABELS = "accepted_labels"
"""Folder beside the datalist for the copies."""


def accept(
    reviewed: str,
    datalist: str,
    *,
    only: str | None = None,
    output: str | None = None,
) -> None:
    """Make labels of reviewed segmentations: a new datalist has their scans as labelled ones, too.

    Correct the files that "dualseg predict" wrote, delete those that are not right, then accept the rest. They are
    checked as all labels are and copied into accepted_labels beside the datalist; nothing that is there is replaced.

    Example: dualseg accept predictions scans/datalist.json

    Args:
        reviewed: folder with NAME_seg.nii.gz (or .nrrd, .mha ...) of unlabelled scans of the datalist.
        datalist: whose unlabelled scans they are of; it stays as it is.
        only: names of the scans to accept, by commas; default: all in the folder.
        output: datalist to write, beside the other one; default: its name with _2, or the next free number.
    """
    folder, path = Path(str(reviewed)), Path(str(datalist))
    if not folder.is_dir():
        raise DataError(f"{reviewed}: no such folder. Name the folder of the reviewed segmentations.")
    cases = load_datalist(path)
    target = path.with_name(Path(str(output)).name) if output is not None else _free_name(path)
    if text(output) and Path(str(output)).absolute() != target.absolute():
        raise DataError(f"{output}: must lie beside {path}, whose paths are relative to it. Give {target}.")
    if target.exists():
        raise DataError(f"{target}: exists already. Name another file with --output.")
    files = _reviewed_files(folder, words(only))
    places = _places(path, cases["unlabeled"], files)
    copies = {case: path.absolute().parent / LABELS / f"{case}_seg{_suffix(file)}" for case, file in files.items()}
    for case, copy in copies.items():
        if copy.exists() and not filecmp.cmp(copy, files[case], shallow=False):
            raise DataError(f"{copy}: is there already and differs from {files[case]}. Move one of them away.")
    found = [{**cases["unlabeled"][place], "label": str(files[case])} for case, place in places.items()]
    give_values(found, cases["labels"], cases[VALUES], cases["ignore"])
    own = {key: value for key, value in cases.items() if key not in SECTIONS}
    if errors := inspect_data({**own, "training": found}).errors:
        raise DataError(errors)
    for case, copy in copies.items():
        if not copy.exists():
            with replace_file(copy) as temporary:
                shutil.copyfile(files[case], temporary)
    content = _with_labels(path, places, copies)
    save_content(content, target)
    labelled, left = (len(content[section]) for section in ("training", "unlabeled"))
    console = Console()
    console.print(f"written: {target} ({labelled} labelled, {left} unlabeled)", **PLAIN)
    console.print(f"next: dualseg train {path.parent} --datalist {target.name}", **PLAIN)


PLAIN = {"markup": False, "highlight": False, "soft_wrap": True}


def _free_name(path: Path) -> Path:
    return next(
        free
        for number in itertools.count(2)
        if not (free := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists()
    )


def _reviewed_files(folder: Path, only: list[str]) -> dict[str, Path]:
    """Segmentations of a folder by their scans' names."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and names_a_label(file) and file.name.lower().endswith(SCAN_SUFFIXES):
            case = min(label_of(file), key=len)
            if case in found:
                raise DataError(f"{file}: {found[case].name} is of the same scan. Move one of them away.")
            found[case] = file
    if missing := [case for case in only if case not in found]:
        raise DataError(f"{folder}: has no segmentation of {missing[0]}, such as {missing[0]}_seg.nii.gz.")
    found = {case: file for case, file in found.items() if not only or case in only}
    if not found:
        raise DataError(f"{folder}: has no file NAME_seg.nii.gz. Name the folder of the reviewed segmentations.")
    return found


def _places(path: Path, unlabeled: list[dict[str, Any]], files: Mapping[str, Path]) -> dict[str, int]:
    """For each segmentation which unlabelled scan it is of."""
    names = [prediction_name(image_files(case)[0]) for case in unlabeled]
    problems = []
    for case, file in files.items():
        if names.count(case) != 1:
            cause = "two unlabelled scans have" if case in names else "no unlabelled scan has"
            problems.append(f"{file}: {cause} the name {case} in {path}. Move it away, or name others with --only.")
    if problems:
        raise DataError(problems)
    return {case: names.index(case) for case in files}


def _suffix(file: Path) -> str:
    return file.name[len(scan_stem(file)) :]


def _with_labels(path: Path, places: Mapping[str, int], copies: Mapping[str, Path]) -> dict[str, Any]:
    """The datalist's own text with some of its unlabelled cases among the labelled ones."""
    content = read_content(path)
    case_at = {place: case for case, place in places.items()}
    for place, entry in enumerate(content["unlabeled"]):
        if place in case_at:
            label = Path(os.path.relpath(copies[case_at[place]], path.absolute().parent)).as_posix()
            content["training"].append({**entry, "label": label})
    content["unlabeled"] = [entry for place, entry in enumerate(content["unlabeled"]) if place not in case_at]
    return content
