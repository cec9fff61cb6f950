# SPDX-License-Identifier: Apache-2.0
"""``dualseg report``: a run as one HTML page."""

# No postponed annotations here: Fire shows them as they are.

from rich.console import Console

from ...errors import DataError
from ...reports.html import write_report
from ...runs.run import Run
from .find_model import newest_run

__all__ = ["report"]


def report(run: str | None = None, *, runs: str = "runs") -> None:
    """Write report.html of a run or an evaluation: settings, curves, scores, every case, and slices of the worst ones.

    The page needs no network and no other file. Training and evaluation write it, too.

    Example: dualseg report runs/scans_mean_teacher_copy_paste_seed0

    Args:
        run: folder of the run, finished or not, or of an evaluation; default: the newest finished run.
        runs: folder of the runs, to find the newest one.
    """
    found = newest_run(str(runs), folds=True) if run is None else Run(str(run))
    if not found.config_file.exists() and not found.summary_file.exists():
        raise DataError(f"{found.folder}: no run, and no evaluation of one. Name a folder such as runs/NAME.")
    Console().print(f"written: {write_report(found.folder)}", markup=False, highlight=False, soft_wrap=True)
