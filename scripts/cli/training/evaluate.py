# SPDX-License-Identifier: Apache-2.0
"""``dualseg evaluate``: score a trained model on labelled scans again."""

# No postponed annotations here: Fire shows them as they are.

from collections.abc import Sequence
from pathlib import Path

from ...bundle_files import CONFIGS
from ...errors import DataError
from ..words import text
from .bundle_command import parse_settings, run_bundle
from .find_model import find_run, newest_run

__all__ = ["evaluate"]


def evaluate(
    run: str | None = None,
    *,
    folder: str | None = None,
    datalist: str | None = None,
    output: str | None = None,
    runs: str = "runs",
    set: Sequence[str] = (),
) -> int:
    """Score a run's model on the test section of its datalist, or of another one.

    Example: dualseg evaluate runs/scans_mean_teacher_copy_paste_seed0

    Args:
        run: folder of the run; default: the newest one.
        folder: another folder of scans with a datalist.
        datalist: name of another datalist in the folder.
        output: folder for scores and pictures; default: evaluation in the run's folder.
        runs: folder of the runs, to find the newest one.
        set: KEY=VALUE, any value of the configs; may be given several times.
    """
    settings = parse_settings(set)
    model = find_run(str(run)) if run is not None else newest_run(str(runs))
    options = {"ckpt_path": model.model, "output_dir": Path(text(output) or model.evaluation).absolute()}
    if folder is not None:
        if not Path(str(folder)).is_dir():
            raise DataError(f"{folder}: no such folder. Name the folder that has the datalist.")
        options["dataset_dir"] = Path(str(folder)).absolute()
    options["datalist_name"] = text(datalist)
    configs = [CONFIGS / "train.json", model.config_file, CONFIGS / "evaluate.json"]
    return run_bundle(configs, options | settings, go_on="To start again, give the same command.")
