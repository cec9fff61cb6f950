# SPDX-License-Identifier: Apache-2.0
"""Whose scans are whose: no patient may be in two sections."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Mapping, Sequence

from ...errors import DataError
from .layouts.case import Case

__all__ = ["by_patient", "refuse_shared_patients", "warn_of_sessions"]

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
    try:
        pattern = re.compile(group) if group is not None else None
    except re.error as error:
        raise DataError(f"--group {group!r}: not a regular expression ({error}). Correct it.") from error
    patients: dict[str, list[Case]] = {}
    for case in cases:
        patient = case.patient or case.name
        if pattern is not None:
            match = pattern.search(case.name)
            if match is None:
                raise DataError(
                    f"{case.name}: the pattern {group!r} for the patient is not in this name. Correct --group."
                )
            patient = match.group(1) if match.re.groups else match.group(0)
        patients.setdefault(patient, []).append(case)
    return patients


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
    if len(patients) < len(names) or len(names) < 2:
        return None  # somebody has said who is who
    for pattern, written in ((_TIME, None), (_NUMBERED, r"^(.*)[-_. ]\d+$")):
        found = [pattern.match(name) for name in names]
        prefixes: dict[str, list[str]] = {}
        for name, match in zip(names, found, strict=True):
            if match:
                prefixes.setdefault(match["patient"], []).append(name)
        several = {patient: members for patient, members in prefixes.items() if len(members) > 1}
        if not several or (len(prefixes) < 2 and (pattern is _NUMBERED or len(names) > 2)):
            continue
        patient, members = next(iter(several.items()))
        group = written or _pattern_for(list(prefixes))
        logger.warning(
            "%s look like scans of one patient, %s (%d such): they may get into training and test. Keep a patient "
            "together with --group %r, or, if they are different patients, with --group '^(.*)$'.",
            " and ".join(members[:2]),
            patient,
            len(several),
            group,
        )
        return group
    return None


def _pattern_for(patients: Sequence[str]) -> str:
    """A pattern for the patient at the start of names: what these have in common, letters and digits apart."""
    shapes = {re.sub(r"[A-Za-z]+", "[A-Za-z]+", re.sub(r"\d+", r"#", re.escape(patient))) for patient in patients}
    shape = shapes.pop() if len(shapes) == 1 else r"[^-_. ]+"
    return f"^({shape.replace('#', chr(92) + 'd+')})"
