# SPDX-License-Identifier: Apache-2.0
"""``dualseg check``: what the scans of a datalist hold, and what is wrong with them."""

# No postponed annotations here: Fire shows them as they are.

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ..data.datalist.check import DataReport, inspect_data
from ..data.datalist.read import SECTIONS, load_datalist, unlisted_files
from ..data.datalist.repair import Repair, find_repairs, write_repaired
from ..data.io.formats.names import prediction_name
from ..errors import DataError
from ..files import save_text

__all__ = ["check"]

SHOWN = 5
"""How many files of a kind are named."""


def check(
    datalist: str,
    *,
    output: str | None = None,
    channels: int | None = None,
    workers: int | None = None,
    fix: str | None = None,
) -> int:
    """Read every scan of a datalist once, show what it holds and what is wrong; exit code 1 when there are errors.

    Files that lie beside the listed ones and are not used are named, as is what can be repaired exactly; with --fix it
    is, in copies. No file of yours is changed.

    Example: dualseg check scans --output report.json

    Example: dualseg check scans --fix repaired_scans

    Args:
        datalist: the JSON file, or the folder that has datalist.json.
        output: JSON file to write the full report to.
        channels: image channels the network takes; default: as many as the first case has.
        workers: scans read at a time; default: the number of processors, at most 8.
        fix: folder to write repaired copies to, with a datalist that names them and the sound files. Repaired are the
            order of a label's axes, values that are not 0, 1, 2, ..., 64-bit and floating-point labels, the order of
            bytes, and names that do not fit the compression.
    """
    path = Path(str(datalist))
    path = path / "datalist.json" if path.is_dir() else path
    target = Path(str(output)) if output is not None else None
    if target is not None and target.exists() and target.samefile(path):
        raise DataError(f"{target}: the datalist itself. Name another file with --output.")
    for option, value in (("channels", channels), ("workers", workers)):
        if value is not None and not (isinstance(value, int) and value > 0):
            raise DataError(f"--{option} {value}: must be a whole number from 1 on.")
    content = load_datalist(path)
    report = inspect_data(content, None, channels, True, workers)
    repairs = find_repairs(content, report)
    _show(report, unlisted_files(content), repairs)
    if target is not None:
        save_text(json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n", target)
    if fix is not None:
        if not repairs:
            raise DataError(f"{path}: there is nothing to repair exactly. Leave out --fix.")
        fixed = write_repaired(path, repairs, str(fix))
        print(f"written: {fixed}, {len(repairs)} repaired files")
        return 1 if inspect_data(load_datalist(fixed), None, channels, True, workers).errors else 0
    return 1 if report.errors else 0


def _show(report: DataReport, unlisted: list[str], repairs: list[Repair]) -> None:
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:  # a file or a pipe has room for whole names
        console.width = 200
    console.print(_table_of_scans(report))
    console.print(_table_of_classes(report))
    sections = Counter(case.section for case in report.cases)
    sparse = [case for case in report.cases if case.ignored_voxels]
    if sparse:
        share = sum(case.ignored_voxels for case in sparse) / sum(float(np.prod(case.shape)) for case in sparse)
        console.print(f"{len(sparse)} labels with ignored voxels, {share:.0%} of these scans", highlight=False)
    if partial := [case for case in report.cases if case.classes is not None]:
        console.print(f"{len(partial)} labels that do not show all classes", highlight=False)
    spacings = np.array([case.spacing[: report.spatial_dims] for case in report.cases if case.spacing])
    console.print(", ".join(f"{sections[section]} {section}" for section in SECTIONS), highlight=False)
    if len(spacings):
        console.print(
            f"median spacing {' x '.join(f'{s:.3g}' for s in np.median(spacings, axis=0))} mm", highlight=False
        )
    if unlisted:
        names = ", ".join(os.path.relpath(file) for file in unlisted[:SHOWN])
        more = f", ... {len(unlisted)} in all" if len(unlisted) > SHOWN else ""
        console.print(f"beside them, in no section: {names}{more}", markup=False, highlight=False, soft_wrap=True)
    kinds = (
        ("warning", "yellow", report.warnings),
        ("repair", "cyan", map(str, repairs)),
        ("error", "red", report.errors),
    )
    for kind, colour, found in kinds:
        for text in found:
            console.print(f"[{colour}]{kind}[/]: ", end="")
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    if repairs:
        console.print(f"{len(repairs)} files can be repaired, in copies: add --fix FOLDER", highlight=False)
    console.print(f"{len(report.errors)} errors, {len(report.warnings)} warnings", highlight=False)


def _table_of_scans(report: DataReport) -> Table:
    narrow = [Column(name, no_wrap=True) for name in ("size", "mm", "axes", "intensity", "found")]
    table = Table(Column("case", overflow="fold"), *narrow, title="Scans", box=SIMPLE_HEAD)
    section = None
    for case in report.cases:
        if case.section != section:
            section = case.section
            table.add_section()
            table.add_row(f"[bold]{section}")
        table.add_row(
            Text(prediction_name(case.image)),
            "x".join(map(str, case.shape[: report.spatial_dims])),
            "x".join(f"{length:.3g}" for length in case.spacing[: report.spatial_dims]),
            case.orientation if report.spatial_dims == 3 else "",
            "\n".join(f"{channel['minimum']:.4g}..{channel['maximum']:.4g}" for channel in case.intensity),
            "[red]error" if case.errors else "[yellow]warning" if case.warnings else "ok",
        )
    return table


def _table_of_classes(report: DataReport) -> Table:
    """How large each structure is; the volumes of each case are in the JSON report."""
    unit, of_ml = ("ml", 1) if report.spatial_dims == 3 else ("cm2", 10)  # a slice of 1 mm
    narrow = [Column(name, no_wrap=True, justify="right") for name in ("cases", f"{unit}: least", "median", "most")]
    table = Table("class", *narrow, title="Labels", box=SIMPLE_HEAD)
    labelled = [case.label_volumes for case in report.cases if case.label_voxels]
    for value, name in list(report.labels.items())[1:]:
        volumes = [case[value] * of_ml for case in labelled if case.get(value)]
        figures = (np.min(volumes), np.median(volumes), np.max(volumes)) if volumes else ()
        shown = [f"{figure:.3g}" for figure in figures]
        table.add_row(Text(f"{value} {name}"), f"{len(volumes)} of {len(labelled)}", *shown)
    return table
