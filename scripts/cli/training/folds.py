# SPDX-License-Identifier: Apache-2.0
"""``dualseg train --folds``: one training a fold, one score over all labelled scans."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ...data.datalist.read import load_datalist
from ...errors import DataError
from ...folds import pool_scores, start_folds
from ...folds.plan import datalist_of
from ...runs.run import Run
from .bundle_command import run_bundle

__all__ = ["train_folds"]

GO_ON = "To go on with these trainings, give the same command again."


def train_folds(
    configs: Sequence[Path],
    options: Mapping[str, Any],
    folds: int,
    epochs: Callable[[Sequence[Path], Mapping[str, Any]], int] | None = None,
) -> int:
    """Train on all but some labelled scans, score those, and so for each fold; finished folds are kept (ours).

    Args:
        configs: layered configs of the training.
        options: what to override in them.
        folds: how many.
        epochs: how many epochs of a fold the time is enough for, of its configs and options; None where no time was
            given.

    Returns:
        Exit code of the first training that failed, or 0.
    """
    path = Path(str(options["dataset_dir"]), str(options["datalist_name"]))
    runs_dir = Path(str(options["runs_dir"]))
    dataset, name = _names(configs, options)
    request = {"configs": configs, **{key: value for key, value in options.items() if key != "runs_dir"}}
    whole = start_folds(runs_dir, f"{name}_{folds}folds", request, load_datalist(path), folds)
    sys.stderr.write(f"{folds} folds of {path} in {whole.folder}\n")
    if not whole.grid_file.exists():
        note = ["$@scripts.data.report_data_errors_briefly()", f"$@scripts.folds.note_grid({str(whole.grid_file)!r})"]
        if code := run_bundle(configs, {**options, "training": note}, "training", GO_ON, show=False):
            return code
    layered = [*configs, whole.grid_file]
    limit = {}
    for number, fold in enumerate(whole.folds, 1):
        if fold.is_finished:
            continue
        own = {**options, "runs_dir": whole.folder, "run_name": fold.folder.name, "dataset_dir": whole.folder}
        own |= {"datalist_name": datalist_of(whole, number).name, "dataset_name": dataset}
        if epochs is not None:
            limit = limit or {"max_epochs": _epochs_of(whole) or epochs(layered, own)}
        sys.stderr.write(f"Fold {number} of {folds}\n")
        if code := run_bundle(layered, own | limit, "training", GO_ON):
            return code
        if not fold.is_finished:  # its folder was taken by a training of another config
            raise DataError(f"{fold.folder}: is not of this command. Move {whole.folder} away, then start again.")
    pool_scores(whole)
    sys.stderr.write(f"To segment scans with all folds: dualseg predict IN OUT --model {whole.folder}\n")
    return 0


def _epochs_of(whole: Run) -> int | None:
    """Epochs of the folds that have begun: all get the same."""
    begun = [fold.config()["max_epochs"] for fold in whole.folds if fold.config_file.exists()]
    return begun[0] if begun else None


def _names(configs: Sequence[Path], options: Mapping[str, Any]) -> tuple[str, str]:
    """Name of the data set, and of a run on it, as configs/train.json makes them."""
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    values = {**parser.get(), **options}
    dataset = str(values["dataset_name"])
    if dataset.startswith("$"):
        dataset = os.path.basename(str(options["dataset_dir"]))
    return dataset, f"{dataset}_{values['method_name']}_seed{values['seed']}"
