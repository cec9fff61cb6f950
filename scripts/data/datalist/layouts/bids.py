# SPDX-License-Identifier: Apache-2.0
"""BIDS: sub-01/ses-02/anat/sub-01_ses-02_T1w.nii.gz, labels in derivatives/."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ....errors import DataError
from ...io.formats.names import VOLUME_SUFFIXES, scan_stem
from .case import Case, CaseCollection

__all__ = ["from_bids", "is_bids"]

_LABEL_SUFFIXES = ("dseg", "mask", "seg", "label", "roi", "probseg")
_OF_LABELS = ("desc", "label", "seg", "atlas", "res", "den", "from", "to", "hemi")
"""Entities that a label has beyond those of its scan."""


def is_bids(source: Path) -> bool:
    """Whether a folder is a BIDS data set: it has folders ``sub-...`` with files that are named so (ours)."""
    subjects = [entry for entry in source.iterdir() if re.fullmatch(r"sub-[a-zA-Z0-9]+", entry.name) and entry.is_dir()]
    return any(_scans(subject) for subject in subjects)


def from_bids(source: Path, labels: Path | None = None, endings: Sequence[str] | None = None) -> CaseCollection:
    """Scans by subject, session and run, the labels of each from ``derivatives``; the subject is the patient.

    A label belongs to the scan of the same subject and session whose other entities (acq, run, ...) it does not
    contradict. Labels in another space, and probabilities, are not used.

    Args:
        source: folder of the data set.
        labels: folder of the labels, e.g. one of several in ``derivatives``.
        endings: suffixes of the scans to take, such as T1w; of several these are the channels, in this order.

    Raises:
        DataError: when a session has scans of several kinds and nothing says which, or a label fits several scans.

    Source: ours; the names are those of the Brain Imaging Data Structure (Gorgolewski et al., Scientific Data 2016).
    """
    subjects = sorted(entry for entry in source.glob("sub-*") if entry.is_dir())
    files = [file for subject in subjects for file in _scans(subject)]
    found = CaseCollection([])
    drawn = {file for file in files if _suffix(file) in _LABEL_SUFFIXES}
    where = labels or source / "derivatives"
    drawn |= set(_scans(where)) if where.is_dir() else set()
    images = [file for file in files if file not in drawn]
    kinds = sorted({_suffix(file) for file in images})
    wanted = list(endings or kinds)
    if not endings and len(kinds) > 1:
        raise DataError(
            f"{source}: scans of {len(kinds)} kinds, {', '.join(kinds)}. Name the one to take, or those that are the "
            f"channels of a case, with --channels, e.g. --channels {kinds[0]}."
        )
    if unknown := [end for end in wanted if end not in kinds]:
        raise DataError(f"{source}: no scan {unknown[0]}; there are {', '.join(kinds)}. Correct --channels.")
    scans: dict[str, dict[str, Path]] = {}
    for file in images:
        if _suffix(file) in wanted:
            scans.setdefault(scan_stem(file).rsplit("_", 1)[0], {})[_suffix(file)] = file
        else:
            found.unused[str(file)] = "not one of --channels"
    for name, kind in list(scans.items()):
        if missing := [end for end in wanted if end not in kind]:
            del scans[name]
            found.unused |= {str(file): f"without {', '.join(missing)}" for file in kind.values()}
    of_scan = _labels_of(scans, sorted(drawn), found.unused, where)
    for name, kind in scans.items():
        paths = [str(kind[end]) for end in wanted]
        label = of_scan.get(name)
        patient = _entities(name)["sub"]
        found.cases.append(Case(name, paths if len(paths) > 1 else paths[0], str(label) if label else None, patient))
    found.modality = wanted if len(wanted) > 1 else None
    return found


def _scans(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("sub-*_*")
        if file.name.lower().endswith(VOLUME_SUFFIXES) and file.is_file() and "sub" in _entities(scan_stem(file))
    )


def _suffix(file: Path) -> str:
    return scan_stem(file).rsplit("_", 1)[-1]


def _entities(name: str) -> dict[str, str]:
    return dict(part.split("-", 1) for part in name.split("_") if "-" in part)


def _labels_of(
    scans: dict[str, dict[str, Path]], labels: Sequence[Path], unused: dict[str, str], where: Path
) -> dict[str, Path]:
    found: dict[str, Path] = {}
    entities = {name: _entities(name) for name in scans}
    for label in labels:
        own = _entities(scan_stem(label))
        if _suffix(label) not in _LABEL_SUFFIXES or _suffix(label) == "probseg":
            unused[str(label)] = "no label by its suffix"
            continue
        if own.pop("space", "orig") not in ("orig", "individual", "native", "T1w"):
            unused[str(label)] = "a label in another space"
            continue
        own = {key: value for key, value in own.items() if key not in _OF_LABELS}
        same = [
            name
            for name, of_scan in entities.items()
            if (own.get("sub"), own.get("ses")) == (of_scan.get("sub"), of_scan.get("ses"))
            and all(of_scan.get(key) == value for key, value in own.items())
        ]
        if not same:
            unused[str(label)] = "a label without its scan"
            continue
        if len(same) > 1:
            raise DataError(f"{label}: fits several scans, {', '.join(same[:3])}. Give it the entities of its scan.")
        other = found.setdefault(same[0], label)
        if other != label:
            raise DataError(
                f"{label}: a second label of {same[0]}, beside {other}. Name the folder of the right ones with "
                f"--labels, e.g. --labels {where / 'NAME'}."
            )
    return found
