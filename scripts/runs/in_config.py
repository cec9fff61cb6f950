# SPDX-License-Identifier: Apache-2.0
"""Runs that end, and finished ones, for the expressions of a bundle's config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..bundle_files import INSTALLED
from ..errors import DataError
from ..ranks import is_main_process
from .enclosing import enclosing_parser
from .finishing import inference_override, run_record
from .run import Run

__all__ = ["finish_run", "latest_run"]

logger = logging.getLogger(__name__)


def latest_run(runs_dir: str, name: str, option: str = "--ckpt_path", **settings: Any) -> str:
    """Folder of the newest finished run of this name in ``runs_dir`` (ours).

    Args:
        runs_dir: folder of all runs.
        name: of the run; ``name_2``, ``name_3`` ... are runs of it, too.
        option: what to give instead of a run, for the error.
        settings: values that the run's config has to have, such as its ``datalist_name``.

    Raises:
        DataError: when there is none; it says how to train one, or to name other weights with ``option``.
    """
    run = Run.latest(runs_dir, name, **settings)
    if run is None:
        wanted = "".join(f" with {key} {value}" for key, value in settings.items())
        raise DataError(f"No finished run {Path(runs_dir) / name}{wanted}: train it first, or give {option}.")
    return str(run.folder)


def finish_run(folder: str) -> None:
    """Mark the run in ``folder`` as finished: the same command starts a new one from now on. First rank only (ours).

    Its record says when, with which versions and hardware, and from which weights the run started; an override,
    layered on the bundle's inference.json, is all that inference needs to use the run's model.
    """
    if not is_main_process():
        return
    run = Run(folder)
    inference = inference_override(enclosing_parser(), run.model, run.largest_parts())
    run.finish(run_record(run.initial_weights()), inference)
    command = (
        f"dualseg predict IN OUT --model {run.folder}"
        if INSTALLED
        else f"python -m monai.bundle run --config_file \"['configs/inference.json','{run.inference_file}']\" "
        "--dataset_dir IN --output_dir OUT"
    )
    logger.info("To segment scans with this model: %s", command)
