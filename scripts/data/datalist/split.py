# SPDX-License-Identifier: Apache-2.0
"""Divide the cases of a data set into labelled, unlabelled, validation and test, with no patient in two of them."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..incomplete_labels import is_ignored_name, take_ignored
from ..io.label_values import VALUES, class_of, parse_values
from ..io.regions import REGIONS, parse_regions, regions_of_classes
from ..io.segment_names import values_by_name
from .cases import Case, CaseCollection, collect_cases
from .dimensions import spatial_dims_of
from .label_files import names_of_values, values_in
from .patients import by_patient, refuse_shared_patients, warn_of_sessions
from .read import DIMENSIONS, SECTIONS, image_files
from .stratify import reserve

logger = logging.getLogger(__name__)


def split_cases(
    source: str | os.PathLike | CaseCollection,
    labels: str | os.PathLike | None = None,
    names: Sequence[str] | None = None,
    labeled: float | None = None,
    validation: float = 0,
    test: float = 0,
    seed: int = 0,
    shuffle: bool | None = None,
    group: str | None = None,
    progress: bool = True,
    unlabeled: str | os.PathLike | None = None,
    channels: Sequence[str] | None = None,
    values: Sequence[float] | None = None,
    stratify: bool = True,
    ignore: int | None = None,
    regions: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    r"""Make a datalist of the scans that :func:`collect_cases` finds.

    Test and validation cases are drawn first, then the labelled ones, all from the cases that have a label. The rest,
    and the cases without a label, are unlabelled: their labels, where there are any, are not listed.

    Args:
        source: folder of scans, ``dataset.json`` or ``.list`` file; see :func:`collect_cases`, whose result may be
            given in its place.
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
        unlabeled: a folder of further scans without labels.
        channels: endings of the files that are the channels of a case.
        values: of the classes 0, 1, ... in the label files, e.g. ``[0, 1, 2, 4]``; default: 0, 1, 2, ...
        stratify: whether to read all labels, so that classes that few patients have get into all sections.
        ignore: label value of the voxels that nobody has annotated; default: none, or the label that dataset.json names
            "ignore".
        regions: unions of label values that are scored in the place of the classes, by name; default: those of
            dataset.json.

    Returns:
        A datalist: ``labels``, ``ignore``, ``modality``, ``values`` and ``regions`` where they are given,
        ``spatial_dims`` 2 where all images are of one slice, and the sections, with absolute paths.

    Raises:
        DataError: when the source cannot be used, has too few labelled cases, or an argument makes no sense.

    Example:
        >>> datalist = split_cases("scans", labeled=0.1, test=20, group=r"(patient\d+)")

    Source: ours.
    """
    if ignore is not None and type(ignore) is not int:
        raise DataError(f"--ignore {ignore}: must be a label value, such as 255.")
    found = source if isinstance(source, CaseCollection) else collect_cases(source, labels, unlabeled, channels)
    source = found.source
    values = parse_values(found.values if values is None else values, "--values")
    if found.test and test:
        raise DataError(f"{source}: names its test cases itself (test.list, labelsTs). Leave out --test.")
    if found.validation and validation:
        raise DataError(f"{source}: names its validation cases itself (val.list). Leave out --validation.")
    if found.training and labeled is None:
        labeled, shuffle = _listed_first(found), False
    every = [*found.cases, *found.validation, *found.test]
    dims = spatial_dims_of([file for case in every for file in image_files({"image": case.image})])
    patients = by_patient(found.cases, group)
    refuse_shared_patients(
        source, {"train.list": found.cases, "val.list": found.validation, "test.list": found.test}, group
    )
    if group is None:
        warn_of_sessions(patients)
    in_order = found.ordered if shuffle is None else not shuffle
    order = list(patients) if in_order else random.Random(seed).sample(sorted(patients), len(patients))
    with_label = sum(case.label is not None for case in found.cases)
    counts = {"test": _count(test, with_label, "test"), "validation": _count(validation, with_label, "validation")}
    sections = _divide(patients, order, counts, labeled, {})
    value_names = _value_names(names, values) or found.labels
    if value_names is None or (stratify and not in_order and len(value_names) > 2 and any((labeled, *counts.values()))):
        labelled = [case for case in every if case.label is not None]
        read = values_in([case.label for case in labelled], progress)
        value_names = value_names or names_of_values(read, values, () if ignore is None else (ignore,))
        for label, own in values_by_name(read, value_names, values, ignore).items():
            read[label] = {class_of(value, own) for value in read[label]} - {None}
        if stratify and not in_order:
            no_class = {0, _head(found, value_names, values, ignore)[1]}
            classes = {
                patient: set().union(*(read[case.label] for case in cases if case.label)) - no_class
                for patient, cases in patients.items()
            }
            sections = _spread(sections, patients, order, counts, labeled, classes)
    if not sections["training"]:
        raise DataError(
            f"{source}: no labelled case is left for training ({with_label} have a label, test and validation take "
            f"{counts['test']} and {counts['validation']}). Ask for fewer, or name the labels' folder with --labels."
        )
    head, _ = _head(found, value_names, values, ignore)
    if dims == 2:
        head[DIMENSIONS] = dims
    if regions := found.regions if regions is None else regions:
        classes = {int(value): name for value, name in head["labels"].items() if not is_ignored_name(name)}
        head[REGIONS] = parse_regions(Path(found.source), regions_of_classes(regions, values, str(source)), classes)
    _say_what_is_missing(sections, patients, {**counts, "training": labeled})
    sections["test"] += found.test
    sections["validation"] += found.validation
    entries = {section: [_entry(case) for case in cases] for section, cases in sections.items()}
    return {**head, **entries}


def _count(wanted: float, of: int, what: str) -> int:
    """A number of cases from a number or a fraction below 1."""
    if not isinstance(wanted, (int, float)) or wanted < 0 or (wanted >= 1 and wanted != int(wanted)):
        raise DataError(f"--{what} {wanted}: must be a whole number of cases, or a fraction between 0 and 1.")
    return int(wanted) if wanted >= 1 else round(wanted * of)


def _head(
    found: CaseCollection, names: Mapping[int, str], values: Sequence[float] | None, ignore: int | None
) -> tuple[dict[str, Any], int | None]:
    """All of a datalist but its cases, and the ignored value, which is proved to be no class."""
    head = {"labels": {str(value): name for value, name in sorted(names.items())}, "ignore": ignore}
    head = {
        key: value for key, value in {**head, "modality": found.modality, VALUES: values}.items() if value is not None
    }
    return head, take_ignored(Path(found.source), dict(head))


def _listed_first(found: CaseCollection) -> int:
    """Put the cases that the data set itself wants to train on first; their number."""
    found.cases.sort(key=lambda case: case.files[0] not in found.training)
    return len(found.training)


def _divide(
    patients: Mapping[str, list[Case]],
    order: Sequence[str],
    counts: Mapping[str, int],
    labeled: float | None,
    reserved: Mapping[str, list[str]],
) -> dict[str, list[Case]]:
    """Whole patients by sections: test and validation from the end of the order, training from its start.

    Args:
        patients: cases by patient.
        order: of the patients.
        counts: of test and validation cases.
        labeled: number or fraction of the rest to keep the label of.
        reserved: patients who have to be in a section.
    """
    sections: dict[str, list[Case]] = {section: [] for section in SECTIONS}
    rest = list(order)
    for section in ("test", "validation"):
        rest = _take(sections, section, patients, rest[::-1], counts[section], reserved)[::-1]
        if counts[section]:
            sections[section].reverse()
    remaining = sum(len(patients[patient]) for patient in rest)
    count = _labelled(patients, rest) if labeled is None else _count(labeled, remaining, "labeled")
    rest = _take(sections, "training", patients, rest, count, reserved)
    sections["unlabeled"] += [Case(case.name, case.image) for patient in rest for case in patients[patient]]
    return sections


def _take(
    sections: dict[str, list[Case]],
    section: str,
    patients: Mapping[str, list[Case]],
    order: list[str],
    count: int,
    reserved: Mapping[str, list[str]],
) -> list[str]:
    """Move whole patients into a section until it has ``count`` cases; returns the patients that remain.

    Cases without a label of a patient who is taken are dropped: elsewhere they would be a leak.
    """
    option = f"--{'labeled' if section == 'training' else section}"
    available = _labelled(patients, order)
    if count > available:
        raise DataError(f"{option} {count}: only {available} cases with a label are left for it. Ask for fewer.")
    own, others = reserved.get(section, []), {one for name, some in reserved.items() if name != section for one in some}
    taken, room = set(), count
    for patient in [*own, *(one for one in order if one not in own and one not in others)]:
        labelled = [case for case in patients[patient] if case.label is not None]
        if not labelled or len(labelled) > room:
            continue
        taken.add(patient)
        sections[section] += labelled
        room -= len(labelled)
    if count and room == count:
        raise DataError(f"{option} {count}: every patient has more labelled cases than that. Ask for more.")
    return [patient for patient in order if patient not in taken]


def _labelled(patients: Mapping[str, list[Case]], order: Sequence[str]) -> int:
    return sum(case.label is not None for patient in order for case in patients[patient])


def _spread(
    sections: dict[str, list[Case]],
    patients: Mapping[str, list[Case]],
    order: Sequence[str],
    counts: Mapping[str, int],
    labeled: float | None,
    classes: Mapping[str, set[int]],
) -> dict[str, list[Case]]:
    """The sections, divided anew where a class is missing from one and there are patients who have it."""
    sizes = {section: len(sections[section]) for section in ("training", "test", "validation") if sections[section]}
    of_case = {case.files[0]: classes[patient] for patient, cases in patients.items() for case in cases}
    missing = {
        section: set().union(*classes.values()) - set().union(*(of_case[case.files[0]] for case in sections[section]))
        for section in sizes
    }
    if not any(missing.values()):
        return sections
    weights = {name: sum(case.label is not None for case in cases) for name, cases in patients.items()}
    divided = _divide(patients, order, counts, labeled, reserve(order, classes, weights, sizes))
    for section in sizes:
        found = set().union(*(of_case[case.files[0]] for case in divided[section]))
        if absent := sorted(set().union(*classes.values()) - found):
            logger.warning(
                "label value %s is in no case of %r: too few patients have it.", ", ".join(map(str, absent)), section
            )
    return divided


def _say_what_is_missing(
    sections: Mapping[str, list[Case]], patients: Mapping[str, list[Case]], wanted: Mapping[str, float | None]
) -> None:
    for section, option in (("test", "test"), ("validation", "validation"), ("training", "labeled")):
        count = wanted[section]
        if count is not None and count >= 1 and len(sections[section]) < count:
            logger.warning("--%s %d: %d cases, since patients stay together", option, count, len(sections[section]))
    dropped = sum(map(len, patients.values())) - sum(map(len, sections.values()))
    if dropped:
        logger.warning("%d cases without a label are left out: their patient is in another section.", dropped)


def _value_names(names: Sequence[str] | None, values: Sequence[float] | None) -> dict[int, str] | None:
    if names is None:
        return None
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    if len(names) < 2:
        raise DataError(f"--names {names}: name the background and every class, e.g. --names background,heart")
    if values is not None and len(names) != len(values):
        raise DataError(f"--names {names}: {len(names)} names for {len(values)} values. Give each value one.")
    return dict(enumerate(names))


def _entry(case: Case) -> dict[str, Any]:
    return {"image": case.image} if case.label is None else {"image": case.image, "label": case.label}
