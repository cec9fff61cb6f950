# SPDX-License-Identifier: Apache-2.0
"""Divide the cases of a data set into labelled, unlabelled, validation and test, with no patient in two of them."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import save_text
from .cases import Case, collect_cases
from .datalist import SECTIONS
from .errors import DataError
from .progress import track
from .readers import DATASET_MARK, H5_SUFFIXES
from .volumes import open_volume

MOST_CLASSES = 256

logger = logging.getLogger(__name__)


def split_cases(
    source: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    names: Sequence[str] | None = None,
    labeled: float | None = None,
    validation: float = 0,
    test: float = 0,
    seed: int = 0,
    shuffle: bool | None = None,
    group: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Make a datalist of the scans that :func:`collect_cases` finds.

    Test and validation cases are drawn first, then the labelled ones, all from the cases that have a label. The rest,
    and the cases without a label, are unlabelled: their labels, where there are any, are not listed.

    Args:
        source: folder of scans, ``dataset.json`` or ``.list`` file; see :func:`collect_cases`.
        labels: folder of the labels, where it is not beside the images.
        names: of the label values 0, 1, ...; default: from dataset.json, or "class N" for values in the label files.
        labeled: how many cases keep their label for training, or which fraction of those that are neither validation
            nor test; default: all that have one.
        validation: how many validation cases, or which fraction of all cases with a label.
        test: how many test cases, or which fraction of all cases with a label.
        seed: of the shuffling.
        shuffle: False takes the labelled cases from the start of the list and the test cases from its end; default:
            True, but False for a ``.list``, whose order is the benchmark's split.
        group: regular expression, searched in the case name. What it (or its first group) matches is the patient. All
            cases of a patient get into the same section; a section may stay smaller than asked for, never larger.
        progress: whether to show a bar while label files are read for their values.

    Returns:
        A datalist: ``labels``, ``modality`` where a dataset.json names it, and the sections, with absolute paths.

    Raises:
        DataError: when the source cannot be used, has too few labelled cases, or an argument makes no sense.

    Example:
        >>> datalist = split_cases("scans", labeled=0.1, test=20, group=r"(patient\\d+)")

    Source: ours.
    """
    found = collect_cases(source, labels)
    if found.test and test:
        raise DataError(f"{source}: test.list beside it names the test cases already. Leave out --test.")
    if found.validation and validation:
        raise DataError(f"{source}: val.list beside it names the validation cases already. Leave out --validation.")
    patients = _patients(found.cases, group)
    _refuse_shared_patients(
        source, {"train.list": found.cases, "val.list": found.validation, "test.list": found.test}, group
    )
    if found.ordered if shuffle is None else not shuffle:
        order = list(patients)
    else:
        order = random.Random(seed).sample(sorted(patients), len(patients))
    with_label = sum(case.label is not None for case in found.cases)
    wanted = {
        "test": _count(test, with_label, "test"),
        "validation": _count(validation, with_label, "validation"),
    }
    sections: dict[str, list[Case]] = {section: [] for section in SECTIONS}
    sections["test"], sections["validation"] = list(found.test), list(found.validation)
    order = _take(sections, "test", patients, order[::-1], wanted["test"])[::-1]
    order = _take(sections, "validation", patients, order[::-1], wanted["validation"])[::-1]
    if test:
        sections["test"].reverse()
    if validation:
        sections["validation"].reverse()
    remaining = sum(len(patients[patient]) for patient in order)
    count = _labelled(patients, order) if labeled is None else _count(labeled, remaining, "labeled")
    order = _take(sections, "training", patients, order, count)
    sections["unlabeled"] += [Case(case.name, case.image) for patient in order for case in patients[patient]]
    if not sections["training"]:
        raise DataError(
            f"{source}: no labelled case is left for training ({with_label} have a label, test and validation take "
            f"{wanted['test']} and {wanted['validation']}). Ask for fewer, or name the labels' folder with --labels."
        )
    dropped = len(found.cases + found.validation + found.test) - sum(len(cases) for cases in sections.values())
    if dropped:
        logger.warning("%d cases without a label are left out: their patient is in another section.", dropped)
    value_names = _value_names(names) or found.labels or _names_from_files(sections, progress)
    entries = {section: [_entry(case) for case in cases] for section, cases in sections.items()}
    modality = {"modality": found.modality} if found.modality else {}
    return {"labels": {str(value): name for value, name in sorted(value_names.items())}, **modality, **entries}


def write_datalist(datalist: dict[str, Any], path: str | os.PathLike, overwrite: bool = False) -> str:
    """Write a datalist with paths relative to it, at once or not at all.

    Args:
        datalist: from :func:`split_cases`.
        path: the JSON file.
        overwrite: whether a file of that name may be replaced.

    Returns:
        The path.

    Raises:
        DataError: when the file exists, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise DataError(f"{path}: exists already. Name another file with --output, or add --overwrite.")
    root = path.absolute().parent

    def relative(file: str | list[str]) -> str | list[str]:
        return (
            [relative(one) for one in file] if isinstance(file, list) else Path(os.path.relpath(file, root)).as_posix()
        )

    content = {
        key: [{role: relative(file) for role, file in case.items()} for case in value] if key in SECTIONS else value
        for key, value in datalist.items()
    }
    save_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", path)
    return str(path)


def _patients(cases: list[Case], group: str | None) -> dict[str, list[Case]]:
    """Cases by patient, in the order of the cases; each case its own patient without a pattern."""
    try:
        pattern = re.compile(group) if group is not None else None
    except re.error as error:
        raise DataError(f"--group {group!r}: not a regular expression ({error}). Correct it.") from error
    patients: dict[str, list[Case]] = {}
    for case in cases:
        patient = case.name
        if pattern is not None:
            match = pattern.search(case.name)
            if match is None:
                raise DataError(
                    f"{case.name}: the pattern {group!r} for the patient is not in this name. Correct --group."
                )
            patient = match.group(1) if match.re.groups else match.group(0)
        patients.setdefault(patient, []).append(case)
    return patients


def _refuse_shared_patients(source: str | os.PathLike, lists: dict[str, list[Case]], group: str | None) -> None:
    if group is None:
        return
    for (first, some), (second, others) in itertools.combinations(lists.items(), 2):
        if both := sorted(_patients(some, group).keys() & _patients(others, group).keys()):
            raise DataError(
                f"{source}: patient {both[0]} is in {first} and in {second} ({len(both)} such). Correct the lists."
            )


def _count(wanted: float, of: int, what: str) -> int:
    """A number of cases from a number or a fraction below 1."""
    if not isinstance(wanted, (int, float)) or wanted < 0 or (wanted >= 1 and wanted != int(wanted)):
        raise DataError(f"--{what} {wanted}: must be a whole number of cases, or a fraction between 0 and 1.")
    return int(wanted) if wanted >= 1 else round(wanted * of)


def _take(
    sections: dict[str, list[Case]], section: str, patients: dict[str, list[Case]], order: list[str], count: int
) -> list[str]:
    """Move whole patients into a section until it has ``count`` cases; returns the patients that remain.

    Cases without a label of a patient who is taken are dropped: elsewhere they would be a leak.
    """
    option = f"--{'labeled' if section == 'training' else section}"
    available = _labelled(patients, order)
    if count > available:
        raise DataError(f"{option} {count}: only {available} cases with a label are left for it. Ask for fewer.")
    rest, room = [], count
    for patient in order:
        labelled = [case for case in patients[patient] if case.label is not None]
        if not labelled or len(labelled) > room:
            rest.append(patient)
            continue
        sections[section] += labelled
        room -= len(labelled)
    if count and room == count:
        raise DataError(f"{option} {count}: every patient has more labelled cases than that. Ask for more.")
    if room:
        logger.warning("%s %d: %d cases, since patients stay together", option, count, count - room)
    return rest


def _labelled(patients: dict[str, list[Case]], order: list[str]) -> int:
    return sum(case.label is not None for patient in order for case in patients[patient])


def _value_names(names: Sequence[str] | None) -> dict[int, str] | None:
    if names is None:
        return None
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    if len(names) < 2:
        raise DataError(f"--names {names}: name the background and every class, e.g. --names background,heart")
    return dict(enumerate(names))


def _names_from_files(sections: dict[str, list[Case]], progress: bool) -> dict[int, str]:
    files = [case.label for section in SECTIONS for case in sections[section] if case.label is not None]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        values = sorted(
            {v for found in track(pool.map(_values_of, files), len(files), "Reading labels", progress) for v in found}
        )
    if values != list(range(len(values))) or len(values) < 2:
        raise DataError(
            f"The label files hold the values {values[:8]}; they must be 0 (background), 1, 2, ... without a gap. "
            "Renumber them (e.g. 255 to 1), or give --names if some class has no voxel in these cases."
        )
    return {value: "background" if value == 0 else f"class {value}" for value in values}


def _values_of(label: str) -> set[float]:
    path = f"{label}{DATASET_MARK}label" if label.lower().endswith(H5_SUFFIXES) else label
    values: set[float] = set()
    with open_volume(path) as volume:
        for slab in volume.slabs():
            values |= {float(value) for value in np.unique(slab)}
            if len(values) > MOST_CLASSES or any(not value.is_integer() for value in values):
                raise DataError(f"{path}: no label file: its values are no class numbers. Is it an image?")
    return {int(value) for value in values}


def _entry(case: Case) -> dict[str, Any]:
    return {"image": case.image} if case.label is None else {"image": case.image, "label": case.label}
