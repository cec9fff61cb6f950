# SPDX-License-Identifier: Apache-2.0
"""Which labelled scans each fold holds out, and the folder of a cross-validation."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.datalist.write import write_datalist
from ..errors import DataError
from ..files import save_text
from ..runs.enclosing import enclosing_parser
from ..runs.run import Run

__all__ = ["FEWEST", "datalist_of", "note_grid", "rotate", "start_folds"]

FEWEST = 2
GRID = ("spacing", "patch_size", "in_channels", "intensity_channels")
"""What a config may derive from the scans, and what networks have to share that are to be averaged."""


def rotate(datalist: Mapping[str, Any], folds: int) -> list[dict[str, Any]]:
    """A datalist for each fold: some labelled scans are held out, and only scored at the end (ours).

    Each labelled scan is held out once. It is the fold's test scan, of which nothing is learnt or chosen, not even its
    image is seen. Validation scans, if any, stay what they are in every fold; test scans are left out of all.

    Args:
        datalist: with ``training``, ``unlabeled``, ``validation``.
        folds: how many.

    Raises:
        DataError: when there are fewer labelled scans than folds.
    """
    labelled = datalist["training"]
    if not isinstance(folds, int) or isinstance(folds, bool) or not FEWEST <= folds <= len(labelled):
        raise DataError(
            f"--folds {folds}: must be a whole number from {FEWEST} to the number of labelled scans, {len(labelled)}."
        )
    return [
        {
            **datalist,
            "training": [case for number, case in enumerate(labelled) if number % folds != fold],
            "test": labelled[fold::folds],
        }
        for fold in range(folds)
    ]


def start_folds(runs_dir: Path, name: str, request: Mapping[str, Any], datalist: Mapping[str, Any], folds: int) -> Run:
    """The folder of a cross-validation: that of an unfinished one of the same request, or a new one (ours).

    Args:
        runs_dir: folder of all runs.
        name: what to call it; ``name_2``, ``name_3`` ... where that is taken.
        request: all that was asked for.
        datalist: whose labelled scans rotate.
        folds: how many.

    Returns:
        The folder, with a datalist for each fold.
    """
    each = rotate(datalist, folds)
    request = json.loads(json.dumps({**request, "held_out": [fold["test"] for fold in each]}, default=str))
    for number in itertools.count(1):
        run = Run(runs_dir / (name if number == 1 else f"{name}_{number}"))
        if not run.folder.exists():
            break
        if run.folds_file.exists() and not run.is_finished and _request(run) == request:
            return run
    for fold, content in enumerate(each, 1):
        write_datalist({**content, "labels": _as_text(content["labels"])}, datalist_of(run, fold))
    names = [f"fold{fold}" for fold in range(1, folds + 1)]
    save_text(json.dumps({"folds": names, "request": request}, indent=1) + "\n", run.folds_file)
    return run


def datalist_of(run: Run, fold: int) -> Path:
    """The datalist of a fold, from 1 on."""
    return run.folder / f"datalist_fold{fold}.json"


def note_grid(path: str | os.PathLike) -> None:
    """Write the grid and intensities that follow from the scans of the config under evaluation, as a config (ours)."""
    parser = enclosing_parser()
    found = {key: parser.get_parsed_content(key) for key in GRID if key in parser.get()}
    save_text(json.dumps({"_desc_": "The grid that all folds share", **found}, indent=1) + "\n", Path(path))


def _request(run: Run) -> dict[str, Any]:
    try:
        return json.loads(run.folds_file.read_text(encoding="utf-8"))["request"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run.folds_file}: damaged. Put back a copy, or move its folder away.") from error


def _as_text(labels: Mapping[int, str]) -> dict[str, str]:
    return {str(value): name for value, name in labels.items()}
