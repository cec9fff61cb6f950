# SPDX-License-Identifier: Apache-2.0
"""Whose scans are whose: no patient may be in two sections."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...errors import DataError
from .layouts.case import Case

__all__ = [
    "Sessions",
    "by_patient",
    "find_sessions",
    "patient_in",
    "patient_pattern",
    "refuse_shared_patients",
    "warn_of_sessions",
]

_TIME = re.compile(
    r"^(?P<patient>.+?)[-_. ]?(?:(?:ses|session|visit|time|timepoint|tp|scan|frame|phase|fu|followup|exam|study|t|v)"
    r"[-_. ]?\d+|pre|post|baseline|followup|ed|es|\d{8}|\d{4}-\d\d-\d\d)$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"^(?P<patient>.*\d.*)[-_. ]\d{1,3}$")

logger = logging.getLogger(__name__)


def by_patient(cases: Sequence[Case], group: str | None) -> dict[str, list[Case]]:
    """Cases by patient, in the order of the cases: by a pattern, else as the data set says, else each its own (ours).

    Raises:
        DataError: when the pattern is none, or is not in a name.
    """
    pattern = patient_pattern(group) if group is not None else None
    patients: dict[str, list[Case]] = {}
    for case in cases:
        patient = case.patient or case.name if pattern is None else patient_in(case.name, pattern)
        patients.setdefault(patient, []).append(case)
    return patients


def patient_pattern(group: str) -> re.Pattern[str]:
    """The pattern by which ``--group`` tells patients (ours).

    Raises:
        DataError: when it is none.
    """
    try:
        return re.compile(group)
    except re.error as error:
        raise DataError(f"--group {group!r}: not a regular expression ({error}). Correct it.") from error


def patient_in(name: str, pattern: re.Pattern[str]) -> str:
    """The patient in the name of a case: the pattern's first group, or what it matches (ours).

    Raises:
        DataError: when the pattern is not in the name.
    """
    match = pattern.search(name)
    if match is None:
        raise DataError(
            f"{name}: the pattern {pattern.pattern!r} for the patient is not in this name. Correct --group."
        )
    return match.group(1) if match.re.groups else match.group(0)


def refuse_shared_patients(source: str | os.PathLike, lists: Mapping[str, list[Case]], group: str | None) -> None:
    """Refuse lists that have a patient in common (ours)."""
    for (first, some), (second, others) in itertools.combinations(lists.items(), 2):
        if both := sorted(by_patient(some, group).keys() & by_patient(others, group).keys()):
            raise DataError(
                f"{source}: patient {both[0]} is in {first} and in {second} ({len(both)} such). Correct the lists."
            )


def warn_of_sessions(patients: Mapping[str, list[Case]]) -> str | None:
    """Say so when cases that count as different patients are called like scans of one (ours).

    Returns:
        The pattern to give as ``--group``, None where the names look fine.
    """
    names = [case.name for cases in patients.values() for case in cases]
    if len(patients) < len(names):
        return None  # somebody has said who is who
    found = find_sessions(names)
    if found is None:
        return None
    logger.warning(
        "%s look like scans of one patient, %s (%d such): they may get into training and test. Keep a patient "
        "together with --group %s, or, if they are different patients, with --group '^(.*)$'.",
        *(" and ".join(found.names), found.patient, found.count, shlex.quote(found.group)),
    )
    return found.group


class Sessions(NamedTuple):
    """What names say of patients with several scans.

    Attributes:
        patient: such a patient.
        names: two of the patient's scans.
        count: how many such patients there are.
        group: pattern to give as ``--group``.
    """

    patient: str
    names: list[str]
    count: int
    group: str


def find_sessions(names: Sequence[str]) -> Sessions | None:
    """Whether scans are called like several scans of one patient; None where the names look fine (ours)."""
    for pattern, written in ((_TIME, None), (_NUMBERED, r"^(.*)[-_. ]\d+$")):
        prefixes: dict[str, list[str]] = {}
        for name in names:
            if match := pattern.match(name):
                prefixes.setdefault(match["patient"], []).append(name)
        several = {patient: members for patient, members in prefixes.items() if len(members) > 1}
        if several and (len(prefixes) > 1 or (pattern is _TIME and len(names) == 2)):
            patient, members = next(iter(several.items()))
            return Sessions(patient, members[:2], len(several), written or _pattern_for(list(prefixes)))
    return None


def _pattern_for(patients: Sequence[str]) -> str:
    """A pattern for the patient at the start of names: what these have in common, letters and digits apart."""
    shapes = {re.sub(r"[A-Za-z]+", "[A-Za-z]+", re.sub(r"\d+", r"#", re.escape(patient))) for patient in patients}
    shape = shapes.pop() if len(shapes) == 1 else r"[^-_. ]+"
    return f"^({shape.replace('#', chr(92) + 'd+')})"
