# SPDX-License-Identifier: Apache-2.0
"""A scan with its label, and all of them together with the files that are neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ....errors import DataError
from ...io.formats.names import case_name, full_name, without_prefix

__all__ = ["Case", "CaseCollection", "pair"]

_SHOWN = 3
"""How many files of a kind are named."""


@dataclass(frozen=True)
class Case:
    """One scan: its ``name``, ``image`` (a path, or a list of paths, one per channel) and ``label`` (None if none).

    ``patient`` is set where the data set itself says who it is.
    """

    name: str
    image: str | list[str]
    label: str | None = None
    patient: str | None = None

    @property
    def files(self) -> list[str]:
        """All files of the case."""
        images = self.image if isinstance(self.image, list) else [self.image]
        return images if self.label is None or self.label in images else [*images, self.label]


@dataclass
class CaseCollection:
    """The cases of a data set in its own order; ``labels`` (value to name), held-out cases where it names any."""

    cases: list[Case]
    labels: dict[int, str] | None = None
    test: list[Case] = field(default_factory=list)
    validation: list[Case] = field(default_factory=list)
    modality: list[str] | None = None
    """What the channels show, in the data set's own words, e.g. CT, T1, FLAIR; None where it does not say."""
    ordered: bool = False
    """Whether the order of the cases carries a meaning, as in the benchmark's lists."""
    training: list[str] = field(default_factory=list)
    """Names of the cases that the data set itself wants to train on; empty where it does not say."""
    values: list[float] | None = None
    """Of the classes in the label files, where the data set says so and they are not 0, 1, 2, ..."""
    regions: dict[str, list[float]] = field(default_factory=dict)
    """Unions of label values that are scored in the place of classes, by name."""
    unused: dict[str, str] = field(default_factory=dict)
    """Files that were seen and are not used, with the reason."""
    source: str = ""
    """Where they were looked for."""

    @property
    def summary(self) -> str:
        """How many files were seen and used, and which were not, and why."""
        used = sum(len(case.files) for case in (*self.cases, *self.validation, *self.test))
        if not self.unused:
            return f"{used} files seen, all used"
        reasons: dict[str, list[str]] = {}
        for file, reason in self.unused.items():
            reasons.setdefault(reason, []).append(Path(file).name)
        parts = []
        for reason, files in reasons.items():
            more = f", ... {len(files)} in all" if len(files) > _SHOWN else ""
            parts.append(f"{', '.join(files[:_SHOWN])}{more} ({reason})")
        return f"{used + len(self.unused)} files seen, {used} used, {len(self.unused)} not: {'; '.join(parts)}"


def pair(scans: Mapping[str, str | list[str]], labels: Sequence[Path]) -> list[Case]:
    """Give each scan the label of its name.

    Names count in whichever Unicode form they are written. Labels that no scan fits are tried again without what
    stands before a number: ``label_07`` then belongs to ``image_07``, ``segmentation-7`` to ``volume-7``.

    Args:
        scans: the image of each case, or its channels, by the case's name.
        labels: the label files.

    Raises:
        DataError: when two labels fit one scan, or one fits none.
    """
    by_name: dict[str, Path] = {}
    for label in labels:
        name = full_name(label) if full_name(label) in scans else case_name(label)
        other = by_name.setdefault(name, label)
        if other != label:
            raise DataError(f"{label}: a second label of case {name}, beside {other.name}. Keep one of them.")
    found = {name: by_name.pop(name) for name in scans if name in by_name}
    short = {without_prefix(name): name for name in scans}
    if len(short) == len(scans):
        for name in list(by_name):
            scan = short.get(without_prefix(name))
            if scan is not None and scan not in found:
                found[scan] = by_name.pop(name)
    if by_name:
        files = ", ".join(str(file) for file in list(by_name.values())[:_SHOWN])
        raise DataError(
            f"{files}: {len(by_name)} labels without an image of the same name; the images are called "
            f"{', '.join(list(scans)[:_SHOWN])}. Rename or remove them."
        )
    return [Case(name, image, str(found[name]) if name in found else None) for name, image in scans.items()]
