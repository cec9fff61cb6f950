# SPDX-License-Identifier: Apache-2.0
"""The datalist of a folder to train on: made where it is missing, else held against what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ..data.datalist.cases import CaseCollection, collect_cases
from ..data.datalist.patients import by_patient
from ..data.datalist.read import SECTIONS, image_files, load_datalist
from ..data.datalist.split import split_cases
from ..data.datalist.write import write_datalist
from ..data.draw_labels import draw_labels
from ..data.incomplete_labels import is_ignored_name
from ..data.io.label_values import VALUES
from ..data.io.regions import REGIONS, regions_of_classes
from ..errors import DataError

__all__ = ["datalist_of_folder"]

SECTION_OF = {"labeled": "training", "validation": "validation", "test": "test"}


def datalist_of_folder(
    folder: Path,
    name: str,
    wanted: Mapping[str, int | None],
    names: list[str] | None,
    ignore: int | None,
    layout: Mapping[str, Any],
    scored: bool,
) -> None:
    """Make the datalist, or see whether the one that is there is as the options say (ours).

    Args:
        folder: of the scans.
        name: of the datalist in it.
        wanted: numbers of cases: ``labeled``, ``validation``, ``test``; None: whatever there is.
        names: of the classes.
        ignore: label value of voxels that nobody has labelled.
        layout: ``unlabeled``, ``channels``, ``values``, ``group``, ``segments`` and ``regions``, None where not given.
        scored: whether labelled scans are scored without a test section.

    Raises:
        DataError: when it cannot be made, or another one is there.
    """
    path = folder / name
    for option, count in wanted.items():
        if count is not None and not (isinstance(count, int) and count >= 0):
            raise DataError(f"--{option} {count}: must be a whole number of cases.")
    if path.exists():
        if differences := list(_differences(path, folder, wanted, names, ignore, layout)):
            option, cause = differences[0]
            raise DataError(
                f"{path}: {cause}. Leave out {option} to train with this datalist, or name another one with "
                "--datalist, which will be made."
            )
        return
    counts = {"labeled": wanted["labeled"], **{k: wanted[k] or 0 for k in ("validation", "test")}}
    cases = draw_labels(_collect(folder, layout), path.parent, layout["segments"])
    console = Console(stderr=True)
    console.print(cases.summary, markup=False, highlight=False, soft_wrap=True)
    how = {"ignore": ignore} | {key: layout[key] for key in ("group", "values", "regions")}
    made = split_cases(cases, names=names, **how, **counts)
    write_datalist(made, path)
    found = ", ".join(f"{len(made[section])} {section}" for section in SECTIONS)
    console.print(f"written: {path} ({found})", markup=False, highlight=False, soft_wrap=True)
    if not (made["test"] or scored):
        hint = "No test scans, so nothing will be scored. For scores: --folds 4, or --test N and another --datalist."
        console.print(hint, markup=False, highlight=False, soft_wrap=True)


def _collect(folder: Path, layout: Mapping[str, Any]) -> CaseCollection:
    return collect_cases(folder, None, layout["unlabeled"], layout["channels"])


def _differences(
    path: Path,
    folder: Path,
    wanted: Mapping[str, int | None],
    names: list[str] | None,
    ignore: int | None,
    layout: Mapping[str, Any],
) -> Iterator[tuple[str, str]]:
    """Options of which a datalist says something else, and what it says."""
    found = load_datalist(path)
    labels = list(found["labels"].values())
    if names is not None and [one for one in names if not is_ignored_name(one)] != labels:
        yield "--names", f"its classes are {', '.join(labels)}"
    elif layout["segments"] and names is None and layout["segments"] != labels[1:]:
        yield "--segments", f"its classes are {', '.join(labels)}"
    if layout["values"] is not None and list(layout["values"]) != found[VALUES]:
        yield "--values", f"its values are {found[VALUES]}"
    regions = None if layout[REGIONS] is None else regions_of_classes(layout[REGIONS], found[VALUES], "--regions")
    if regions is not None and regions != found[REGIONS]:
        yield "--regions", f"its regions are {found[REGIONS] or 'none'}, by class numbers"
    if ignore is not None and ignore != found["ignore"]:
        yield "--ignore", f"its ignored label value is {found['ignore']}, not {ignore}"
    for option, count in wanted.items():
        there = len(found[SECTION_OF[option]])
        if count is not None and count != there:
            yield f"--{option}", f"lists {there} {SECTION_OF[option]} cases, not {count}"
    if layout["unlabeled"] is not None:
        place = Path(layout["unlabeled"]).resolve()
        files = [Path(file).resolve() for case in found["unlabeled"] for file in image_files(case)]
        if not any(file.is_relative_to(place) for file in files):
            yield "--unlabeled", f"lists no unlabelled scan of {layout['unlabeled']}"
    channels = len(image_files(found["training"][0]))
    if layout["channels"] and len(layout["channels"]) != channels:
        yield "--channels", f"its cases have {channels} files each"
    if layout["group"] is not None:
        where = {file: section for section in SECTIONS for case in found[section] for file in image_files(case)}
        cases = _collect(folder, layout)
        for patient, some in by_patient([*cases.cases, *cases.validation, *cases.test], layout["group"]).items():
            sections = {where[file] for case in some for file in case.files if file in where}
            if len(sections) > 1 and sections & {"validation", "test"}:
                yield "--group", f"has patient {patient} in {' and in '.join(sorted(sections))}"
