# SPDX-License-Identifier: Apache-2.0
"""``dualseg next``: which unlabelled scans are worth a person's time."""

# No postponed annotations here: Fire shows them as they are.

import json
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ...bundle_files import CONFIGS, program_config
from ...data.datalist.read import load_datalist
from ...errors import DataError
from ...runs.run import Run
from ..words import text
from .bundle_command import run_bundle
from .find_model import find_run, newest_run

__all__ = ["next_scans"]


def next_scans(run: str | None = None, *, count: int = 10, output: str | None = None, runs: str = "runs") -> int:
    """List the unlabelled scans to label next: those on which the networks are unsure, and which are not alike.

    Example: dualseg next runs/scans_mean_teacher_copy_paste_seed0 --count 5

    Args:
        run: folder of the run whose model and datalist to take; default: the newest one.
        count: how many scans to list; review.json has all.
        output: folder for review.json; default: review in the run's folder.
        runs: folder of the runs, to find the newest one.
    """
    if not isinstance(count, int) or count < 1:
        raise DataError(f"--count {count}: must be a whole number from 1 on.")
    model = find_run(str(run)) if run is not None else newest_run(str(runs))
    config = model.config()
    datalist = Path(str(config.get("dataset_dir")), str(config.get("datalist_name")))
    if datalist.is_file() and not load_datalist(datalist)["unlabeled"]:
        raise DataError(f"{datalist}: lists no unlabelled scan, so there is none to label next.")
    target = Path(text(output) or model.review_folder).absolute()
    configs = [CONFIGS / "train.json", model.config_file, program_config("review")]
    code = run_bundle(
        configs, {"ckpt_path": model.model, "output_dir": target}, go_on="To start again, give the same command."
    )
    if code == 0:
        _show(Run(target), count)
    return code


def _show(found: Run, count: int) -> None:
    scans = json.loads(found.review.read_text(encoding="utf-8"))
    narrow = [Column(name, justify="right") for name in ("disagreement", "entropy")]
    table = Table("", Column("scan", overflow="fold"), *narrow, box=SIMPLE_HEAD, title="To label next")
    for number, scan in enumerate(scans[:count], 1):
        table.add_row(str(number), Text(scan["image"]), f"{scan['disagreement']:.3f}", f"{scan['entropy']:.3f}")
    console = Console()
    console.print(table)
    console.print(f"all {len(scans)} of them: {found.review}", markup=False, highlight=False, soft_wrap=True)
