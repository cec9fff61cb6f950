# SPDX-License-Identifier: Apache-2.0
"""From what a user typed as ``--model`` to a run or a file of weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...bundle_files import BUNDLE, CONFIGS, program_config
from ...errors import DataError
from ...export import HUB_CONFIG, HUB_WEIGHTS, is_hub_folder, read_hub
from ...runs.run import Run

__all__ = ["SHIPPED", "find_run", "newest_run", "prediction_configs"]

SHIPPED = {"left_atrium": ("model", ()), "hippocampus": ("model_hippocampus", ("datasets/hippocampus.json",))}
"""{name: (weights in models, without suffix; configs over that of inference)} of the models in the bundle."""


def find_run(folder: str) -> Run:
    """The finished run in a folder (ours).

    Raises:
        DataError: when there is none.
    """
    run = Run(Path(folder).absolute())
    if not run.folder.is_dir():
        raise DataError(f"{folder}: no such folder. Name the folder of a run, such as runs/NAME.")
    if folds := run.folds:
        raise DataError(f"{folder}: holds {len(folds)} runs, one a fold. Name one of them, such as {folds[0].folder}.")
    if not run.config_file.is_file():
        raise DataError(f"{folder}: not a run, it has no {run.config_file.name}. Name a folder that training made.")
    if not run.is_finished:
        raise DataError(f"{folder}: this training has not come to its end. Give its command again to finish it.")
    return run


def newest_run(runs_dir: str, folds: bool = False) -> Run:
    """The finished run in ``runs_dir`` that ended last (ours).

    Args:
        runs_dir: folder of the runs.
        folds: whether it may be a cross-validation.

    Raises:
        DataError: when there is none.
    """
    finished = [run for run in map(Run, Path(runs_dir).absolute().glob("*/")) if run.is_finished]
    finished = [run for run in finished if folds or run.config_file.exists()]
    if not finished:
        raise DataError(
            f"{runs_dir}: no finished run in it. Train one, or name a model with --model: a run's folder, its model.pt "
            f"or one of {', '.join(SHIPPED)}."
        )
    return max(finished, key=lambda run: run.record_file.stat().st_mtime)


def prediction_configs(models: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The layered configs and the weights of a model, or of several that are averaged (ours).

    Args:
        models: each the folder of a run or of a cross-validation, a file of weights in a run's folder, a folder for
            the Hugging Face Hub, or a name in ``SHIPPED``.

    Raises:
        DataError: when one is none of these, or they differ in their networks, classes or grid.
    """
    models = [name for model in models for name in _members(model)]
    found = [_prediction_config(model) for model in models]
    configs, _ = found[0]
    for model, (others, _) in zip(models[1:], found[1:], strict=True):
        if difference := _difference(configs, others):
            raise DataError(f"{model}: its {difference} is not that of {models[0]}, so they cannot be averaged.")
    return configs, [weights for _, weights in found]


def _members(model: str) -> list[str]:
    """The model itself; of a cross-validation its folds."""
    run = Run(Path(model).absolute())
    if run.folds and not run.is_finished:
        raise DataError(f"{model}: not all of its folds have come to their end. Give their command again.")
    return [str(fold.folder) for fold in run.folds] or [model]


def _difference(configs: Sequence[Path], others: Sequence[Path]) -> str | None:
    """The first setting in which two models' configs differ, where their weights are apart."""
    one, other = ({k: v for f in files for k, v in json.loads(f.read_text()).items()} for files in (configs, others))
    own = {"_desc_", "ckpt_path", "largest_component"}  # which predict settles
    return next((key for key in {**one, **other} if key not in own and one.get(key) != other.get(key)), None)


def _prediction_config(model: str) -> tuple[list[Path], Path]:
    base = program_config("inference")
    path = Path(model)
    if model in SHIPPED and not path.exists():
        weights, configs = SHIPPED[model]
        return [base, *(CONFIGS / config for config in configs)], BUNDLE / "models" / f"{weights}.pt"
    if is_hub_folder(path):
        read_hub(path)
        return [base, path.absolute() / HUB_CONFIG], path.absolute() / HUB_WEIGHTS
    if not path.is_file():
        run = find_run(model)
        return [base, run.inference_file], run.model
    run = Run(path.absolute().parent)
    if not run.inference_file.is_file():
        raise DataError(
            f"{model}: no {run.inference_file.name} beside it, which says what networks it is for. Keep the file in "
            "its run's folder, or name that folder."
        )
    return [base, run.inference_file], path.absolute()
