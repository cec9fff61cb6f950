# SPDX-License-Identifier: Apache-2.0
"""``dualseg compare``: is one run better than another, and by more than chance?"""

# No postponed annotations here: Fire shows them as they are.

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ...errors import DataError
from ...files import save_text
from ...reports.compare import compare_runs
from ...runs.run import Run
from ..words import text

__all__ = ["compare"]

MEASURES = {
    "dice": ("Dice", 3),
    "surface_dice": ("surface Dice", 3),
    "hd95_mm": ("HD95, mm", 2),
    "asd_mm": ("ASD, mm", 2),
}


def compare(first: str, second: str, *, output: str | None = None, group: str | None = None) -> None:
    """Compare two runs scan by scan, with the interval of the difference and a paired test.

    Example: dualseg compare runs/scans_supervised_seed0 runs/scans_mean_teacher_copy_paste_seed0

    Args:
        first: folder of the run, or of the evaluation, to compare with.
        second: folder of the one that may be better.
        output: JSON file to write the figures to.
        group: regular expression for the patient in a scan's name, such as "patient[0-9]+", where patients have
            several scans: each counts once then, by the mean of the scans. Scans of one patient are alike, and a test
            that takes them for independent finds too much.
    """
    runs = [Run(Path(str(folder))) for folder in (first, second)]
    for folder, run in zip((first, second), runs, strict=True):
        if not run.folder.is_dir():
            raise DataError(f"{folder}: no such folder. Name the folder of a run, such as runs/NAME.")
    result = compare_runs(*runs, measures=tuple(MEASURES), group=None if group is None else str(text(group)))
    if output is not None:
        save_text(json.dumps(result, indent=1) + "\n", Path(str(text(output))))
    console = Console()
    console.print(_table(result))
    if result["left_out"]:
        console.print(f"scored by one of them only: {', '.join(result['left_out'])}", markup=False, highlight=False)
    counted = "scans" if group is None else "patients"
    test = f"Wilcoxon's signed-rank test over {counted}"
    console.print(f"p: {test}, two-sided, not corrected for the number of rows.", highlight=False)


def _table(result: dict[str, Any]) -> Table:
    narrow = [Column(name, justify="right") for name in ("first", "second", "difference", "95 %", "better, worse", "p")]
    table = Table("class", "measure", *narrow, box=SIMPLE_HEAD)
    for name, measures in result.items():
        if name == "left_out":
            continue
        for measure, found in measures.items():
            heading, digits = MEASURES[measure]
            interval = "" if found["ci95"] is None else " to ".join(f"{bound:+.{digits}f}" for bound in found["ci95"])
            larger, smaller = found["larger"], found["smaller"]
            better, worse = (smaller, larger) if measure.endswith("_mm") else (larger, smaller)
            table.add_row(
                Text(name),
                heading,
                *(f"{found[key]:.{digits}f}" for key in ("first", "second")),
                f"{found['mean']:+.{digits}f}",
                interval,
                f"{better}, {worse} of {found['cases']}",
                "too few" if found["p"] is None else f"{found['p']:.2g}",
            )
        table.add_section()
    return table
