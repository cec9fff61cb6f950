# SPDX-License-Identifier: Apache-2.0
"""What a datalist says of labels that are not complete: an ignored value, classes that were not annotated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError

__all__ = [
    "IGNORED_NAME",
    "PSEUDO",
    "annotated_classes",
    "has_partial_labels",
    "is_ignored_name",
    "take_ignored",
    "unlabeled_cases",
]

IGNORED_NAME = "ignore"
"""Name that makes a label value no class but a voxel that nobody has annotated, as in nnU-Net."""

PSEUDO = "pseudo"
"""Key of a training case: whether a model has made its label."""


def is_ignored_name(name: Any) -> bool:
    """Whether a class is called "ignore"."""
    return isinstance(name, str) and name.strip().lower() == IGNORED_NAME


def take_ignored(path: Path, content: dict[str, Any]) -> int | None:
    """The label value that marks voxels without an annotation, from ``"ignore": 255`` or a label named "ignore".

    That name is taken out of ``content["labels"]``: it is no class.

    Raises:
        DataError: when there are two such values, or one that is a class or no whole number.
    """
    value = content.get(IGNORED_NAME)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise DataError(f'{path}: "ignore" is {value!r}. Write the label value to leave out, e.g. "ignore": 255.')
    labels = content.get("labels")
    if isinstance(labels, dict):
        named = [key for key, name in labels.items() if is_ignored_name(name) and str(key).lstrip("-").isdigit()]
        content["labels"] = {key: name for key, name in labels.items() if key not in named}
        found = {int(key) for key in named} | ({value} if value is not None else set())
        if len(found) > 1:
            raise DataError(f'{path}: two ignored values, {sorted(found)}. Only one may be "ignore".')
        value = found.pop() if found else None
        if value == 0:
            raise DataError(
                f"{path}: the ignored value 0 is that of background. If 0 marks voxels that nobody has painted, save "
                "them as 255, and background strokes as 0."
            )
        if value is not None and str(value) in map(str, content["labels"]):
            raise DataError(f'{path}: the ignored value {value} is a class in "labels". Give one another value.')
    if (
        value is not None
        and isinstance(values := content.get("values"), list)
        and (value in values or 0 <= value < len(values))
    ):
        raise DataError(
            f'{path}: the ignored value {value} is that of a class in "values", or a number that a class gets by it. '
            "Give the voxels to ignore another one, e.g. 255."
        )
    return value


def annotated_classes(entry: Mapping[str, Any], labels: Mapping[int, str]) -> tuple[list[int] | None, str | None]:
    """Which foreground classes the label of a case shows, from its ``classes``, numbers or names.

    Returns:
        Their numbers in order, None where all were annotated; what is wrong, None if nothing.
    """
    given = entry.get("classes")
    if given is None:
        return None, None
    numbers = {name: value for value, name in labels.items()} | {value: value for value in labels}
    known = ", ".join(f"{value} {name}" for value, name in labels.items() if value)
    if not isinstance(given, list) or any(isinstance(one, bool) or not isinstance(one, (int, str)) for one in given):
        return None, f'"classes" is {given!r}. List the annotated classes by number or name, of {known}.'
    if wrong := [one for one in given if one not in numbers]:
        return None, f'"classes" has {wrong[0]!r}. The classes are {known}.'
    found = sorted({numbers[one] for one in given} - {0})
    if not found:
        return None, f'"classes" names no structure. List at least one of {known}, or move the case to "unlabeled".'
    return (found if len(found) < len(labels) - 1 else None), None


def has_partial_labels(datalist: Mapping[str, Any]) -> bool:
    """Whether any label of a datalist (:func:`~.datalist.read.load_datalist`) may lack voxels or classes."""
    cases = (case for section in ("training", "validation", "test") for case in datalist.get(section, []))
    return datalist.get(IGNORED_NAME) is not None or any("classes" in case for case in cases)


def unlabeled_cases(datalist: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scans of the unlabelled stream: those of ``unlabeled``, and training scans whose label is not complete.

    What was not annotated in a scan is unlabelled, so the terms for unlabelled voxels teach it, whatever the method. A
    scan for which the whole label was drawn is not among them.
    """
    sparse = datalist.get(IGNORED_NAME) is not None
    partial = [{"image": case["image"]} for case in datalist["training"] if sparse or "classes" in case]
    return [*datalist["unlabeled"], *partial]
