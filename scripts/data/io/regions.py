# SPDX-License-Identifier: Apache-2.0
"""Regions that overlap, such as a tumour and its core: each is a union of classes, of which a voxel has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from .label_values import class_of

__all__ = [
    "REGIONS",
    "listed_regions",
    "names_of_classes",
    "parse_regions",
    "regions_of_classes",
    "regions_of_option",
]

REGIONS = "regions"
"""Key of a datalist: ``{name: [class number, ...]}``."""

_FORM = 'Write e.g. "regions": {"whole tumour": [1, 2, 3], "tumour core": [2, 3]}, class numbers of "labels".'


def parse_regions(path: Path, given: Any, labels: Mapping[int, str]) -> dict[str, list[int]]:
    """The regions that a datalist names, empty where there are none.

    Raises:
        DataError: when one is no list of foreground classes, or its name cannot be a key of a config.
    """
    if given is None or given == {}:
        return {}
    if not isinstance(given, dict):
        raise DataError(f'{path}: "regions" is {given!r}. {_FORM}')
    for name in given:  # a key of the configs that a run writes, where these would say something else
        if not name or name.startswith("_") or "#" in name or "::" in name:
            raise DataError(f'{path}: a region called "{name}". Give it a name without # and ::, no _ in front.')
    for name, classes in given.items():
        whole = isinstance(classes, list) and all(type(one) is int for one in classes)
        if not whole or not classes or len(set(classes)) < len(classes) or not set(classes) <= labels.keys() - {0}:
            known = ", ".join(f"{number} {label}" for number, label in labels.items() if number)
            raise DataError(f'{path}: region "{name}" is {classes!r}; the classes are {known}. {_FORM}')
    return {name: sorted(classes) for name, classes in given.items()}


def listed_regions(labels: Mapping[str, Any]) -> dict[str, list[float]]:
    """The regions of a dataset.json of nnU-Net by the values of its label files; none where no label is a list.

    There, too, label files have one value a voxel, and a label that is a list is the union of its values. A label that
    is one value is a region of its own beside them. Background is none.

    Raises:
        ValueError: when a label is neither a whole number nor a list of such.
    """
    listed = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    if all(not isinstance(value, list) for value in labels.values()):
        return {}
    for name, values in listed.items():
        if not values or any(type(one) is not int or one < 0 for one in values):
            raise ValueError(f'label "{name}" is {labels[name]!r}')
    return {name: values for name, values in listed.items() if values != [0]}


def names_of_classes(regions: Mapping[str, Sequence[float]]) -> dict[int, str]:
    """A name for each value of regions, in ascending order, background first.

    A region of one value names it; another value has the name of the smallest region it is in, and its number.
    """
    names = {0: "background"}
    for value in sorted({one for values in regions.values() for one in values}):
        around = sorted((len(values), name) for name, values in regions.items() if value in values)
        names[int(value)] = around[0][1] if around[0][0] == 1 else f"{around[0][1]} {value:g}"
    return names


def regions_of_option(text: Any) -> dict[str, list[float]]:
    """The regions that an option names, ``whole=1+2+4,core=1+4``, by the values of the label files.

    Raises:
        DataError: when it is of another form.
    """
    form = '--regions: write e.g. --regions "whole tumour=1+2+4,tumour core=1+4,enhancing tumour=4".'
    regions: dict[str, list[float]] = {}
    for part in str(text).split(","):
        name, equals, values = (one.strip() for one in part.partition("="))
        if not (name and equals) or name in regions:
            raise DataError(f"{form} {part.strip()!r} is no region with a name of its own.")
        try:
            regions[name] = [float(value) for value in values.split("+")]
        except ValueError as error:
            raise DataError(f"{form} {values!r} are no label values.") from error
    return regions


def regions_of_classes(
    regions: Mapping[str, Sequence[float]], values: Sequence[float] | None, where: str
) -> dict[str, list[int]]:
    """Regions by class numbers, from those by the values of the label files.

    Args:
        regions: by label values.
        values: of the classes 0, 1, ...; None: these numbers themselves.
        where: what named them, for the error.

    Raises:
        DataError: when a value is that of no class.
    """
    found = {name: [class_of(value, values) for value in own] for name, own in regions.items()}
    for name, classes in found.items():
        if None in classes:
            wrong = regions[name][classes.index(None)]
            raise DataError(f"{where}: region {name} has the value {wrong:g}, which no class has. Correct it.")
    return {name: sorted(number for number in classes if number is not None) for name, classes in found.items()}
