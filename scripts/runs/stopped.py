# SPDX-License-Identifier: Apache-2.0
"""A training that was stopped has a model, too: the best one so far."""

from __future__ import annotations

import os

from monai.bundle import ConfigParser

from ..tensor_files import load_tensors, save_tensors
from .finishing import inference_override, run_record
from .run import Run

__all__ = ["finish_stopped_run", "save_model_so_far"]


def save_model_so_far(folder: str | os.PathLike) -> int | None:
    """Write the model of a run that did not come to its end, with what inference needs to use it (ours).

    It is the best epoch on the validation scans or, before the first validation and without such scans, the last one.
    The run stays unfinished: the same command continues it, and writes the model anew.

    Args:
        folder: of the run; no process may be training it.

    Returns:
        The model's epoch; None when the run has no epoch behind it.
    """
    run = Run(folder)
    if run.is_finished or not run.can_resume:
        return None
    state = load_tensors(run.state)
    parser = ConfigParser()
    parser.read_config(str(run.config_file))
    validated = state["best"]["epoch"] is not None and run.best_model.exists()
    epoch = state["best"]["epoch"] if validated else state["epoch"]
    if validated:
        weights = load_tensors(run.best_model)
    elif parser.get_parsed_content("use_average"):
        average = state["state"]["average"]
        weights = {name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"}
    else:
        weights = state["network"]
    save_tensors(weights, run.model)
    run.note_choice(
        {
            "chosen": ("best on validation" if validated else "last epoch") + " of a training that was stopped",
            "epoch": epoch,
            "validation_metric": state["best"]["metric"] if validated else None,
            "epochs": state["epoch"],
            "iterations": state["iteration"],
            "seed": parser.get_parsed_content("seed"),
        }
    )
    run.note_inference(inference_override(parser, run.model))
    return epoch


def finish_stopped_run(folder: str | os.PathLike) -> None:
    """Mark a run as finished with the model of :func:`save_model_so_far`: it is not continued any more (ours)."""
    run = Run(folder)
    run.finish({**run_record(run.initial_weights()), "stopped": True}, run.inference())
