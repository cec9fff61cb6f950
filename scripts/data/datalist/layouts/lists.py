# SPDX-License-Identifier: Apache-2.0
"""Lists of cases: a benchmark's .list files, a CSV table."""

from __future__ import annotations

import csv
from pathlib import Path, PureWindowsPath

from ....errors import DataError
from ...io.formats.names import case_name
from .case import Case, CaseCollection

__all__ = ["from_csv", "from_list", "lines_of"]

_SECTIONS = {"training": ("train", "training", "labeled", "labelled"), "unlabeled": ("unlabeled", "unlabelled")}
_SECTIONS |= {"validation": ("val", "valid", "validation"), "test": ("test", "testing"), "": ("",)}
_COLUMNS = {
    "label": ("label", "mask", "segmentation", "seg", "gt"),
    "patient": ("patient", "subject", "patient_id", "subject_id"),
    "section": ("section", "split", "set", "subset"),
}


def from_list(path: Path) -> CaseCollection:
    """The cases of a benchmark's ``train.list``, with those of ``test.list`` and ``val.list`` beside it (ours)."""
    cases = _listed_cases(path)
    held_out = []
    for name in ("test.list", "val.list"):
        other = path.with_name(name)
        held_out.append(_listed_cases(other) if other != path and other.is_file() else [])
    return CaseCollection(cases, None, *held_out, ordered=True)


def _listed_cases(path: Path) -> list[Case]:
    names = lines_of(path)
    if not names:
        raise DataError(f"{path}: an empty list. It needs a case name on each line.")
    return [_listed_case(path, name) for name in names]


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as UTF-8 text ({error}). It needs a case name on each line."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _listed_case(path: Path, name: str) -> Case:
    root, stem = path.parent, Path(name).name.removesuffix(".h5")
    image, label = root / "images" / f"{stem}.nii.gz", root / "labels" / f"{stem}.nii.gz"
    if image.is_file():
        return Case(stem, str(image), str(label) if label.is_file() else None)
    patterns = (f"{name}/mri_norm2.h5", f"{stem}.h5", f"{stem}_norm.h5")
    for folder in (root, *(entry for entry in sorted(root.iterdir()) if entry.is_dir())):
        for pattern in patterns:
            if (folder / pattern).is_file():
                return Case(stem, str(folder / pattern), str(folder / pattern))
    raise DataError(
        f"{path}: no scan of case {name}. Looked beside it and one folder below for images/{stem}.nii.gz, "
        f"{', '.join(patterns)}."
    )


def from_csv(path: Path) -> CaseCollection:
    """The cases of a table with a head: ``image``, and where there are any ``label``, ``patient``, ``section``.

    Paths are relative to the file. Several columns whose names begin with ``image`` are the channels of a scan. Cases
    of the sections ``validation`` and ``test`` are held out, the label of an ``unlabeled`` one is not looked at.

    Raises:
        DataError: when it has no column of images, a file is missing, or a section has another name.

    Source: ours.
    """
    lines = lines_of(path)
    if len(lines) < 2:
        raise DataError(f"{path}: no cases. It needs a head such as image,label and a line for each case.")
    mark = max(",;\t", key=lines[0].count)
    rows = list(csv.reader(lines, delimiter=mark, skipinitialspace=True))
    head = [word.strip().lower() for word in rows[0]]
    images = [number for number, word in enumerate(head) if word.startswith(("image", "scan"))]
    if not images:
        raise DataError(
            f"{path}: no column image, only {', '.join(head)}. Name the columns image, label, ... in its head."
        )
    column = {key: next((head.index(word) for word in words if word in head), None) for key, words in _COLUMNS.items()}
    found = CaseCollection([])
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(head):
            raise DataError(f"{path}: line {number} has {len(row)} fields, its head {len(head)}. Correct it.")
        cell = {key: row[place].strip() if place is not None else "" for key, place in column.items()}
        section = next((one for one, words in _SECTIONS.items() if cell["section"].lower() in words), None)
        if section is None:
            raise DataError(
                f"{path}: line {number} has the section {cell['section']!r}. Write training, unlabeled, validation or "
                "test."
            )
        files = [_existing(path, number, row[place].strip()) for place in images if row[place].strip()]
        if not files:
            raise DataError(f"{path}: line {number} has no image. Name its file.")
        label = _existing(path, number, cell["label"]) if cell["label"] and section != "unlabeled" else None
        if label is None and section not in ("", "unlabeled"):
            raise DataError(f"{path}: line {number}, a case for {section}, has no label. Name its file.")
        case = Case(case_name(files[0]), files if len(files) > 1 else files[0], label, cell["patient"] or None)
        {"test": found.test, "validation": found.validation}.get(section, found.cases).append(case)
        if section == "training":
            found.training.append(case.image if isinstance(case.image, str) else case.image[0])
    if not found.cases:
        raise DataError(f"{path}: no case that is not held out. List some to train on.")
    return found


def _existing(path: Path, number: int, file: str) -> str:
    for form in (file, PureWindowsPath(file).as_posix()):
        if (path.parent / form).exists():
            return str(path.parent / form)
    raise DataError(f"{path}: line {number}: {file}: no such file. Correct its path, which is relative to the list.")
