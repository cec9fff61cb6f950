# SPDX-License-Identifier: Apache-2.0
"""Which folder a training gets: that of its unfinished run, or a new one, and in words why."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..config_text import CONFIG_MARKS
from ..errors import DataError
from ..files import remove_parts
from ..ranks import is_main_process, tell_others, world_size
from .enclosing import enclosing_parser
from .lock import lock_folder, tidy_folder
from .run import Run

__all__ = ["RESUME", "run_folder", "start_run"]

logger = logging.getLogger(__name__)

RESUME = ("auto", "must", "off")
"""Go on with the unfinished run of the same config if there is one; only that; never."""

HOW = {"resume", "checkpoint_minutes", "runs_dir", "cache", "cache_dir"}
"""Keys that say how a run is started, and where it is saved and its scans are kept, and not what it computes."""


def run_folder(runs_dir: str, name: str, resume: str = "auto") -> str:
    """Choose the folder of the run that the config under evaluation describes; create it with that config (ours).

    See :func:`start_run`. Of processes that train together the first one chooses.

    Args:
        runs_dir: folder of all runs.
        name: what to call this one.
        resume: ``auto``, ``must`` or ``off``.

    Returns:
        Path of the folder, which holds the merged config with all overrides.

    Raises:
        DataError: see :func:`start_run`; or a switch was given as ``true`` instead of ``True``.
    """
    config = {k: v for k, v in enclosing_parser().get().items() if k != ConfigParser.meta_key}
    _refuse_lower_case_switches(config)
    if world_size() == 1:
        return str(start_run(runs_dir, name, config, resume).folder)
    folder, problems = tell_others(_outcome(runs_dir, name, config, resume) if is_main_process() else None)
    if problems:  # known to all, so that none waits for the others
        raise DataError(problems)
    return folder


def start_run(runs_dir: str | os.PathLike, name: str, config: Mapping[str, Any], resume: str = "auto") -> Run:
    """Choose and create the folder of a training (ours).

    It is ``runs_dir/name``, or ``name_2``, ``name_3`` ...: the first one that holds an unfinished run of this config
    (which is then resumed), or that does not exist yet. So a finished run and an unfinished one of another config are
    never overwritten; a line in the log says which runs were passed over, and why. Two spellings of one path are the
    same config. The folder is locked for this process.

    Args:
        runs_dir: folder of all runs.
        name: what to call this one.
        config: the merged config with all overrides.
        resume: one of :data:`RESUME`.

    Raises:
        DataError: when the folder cannot be written, another process trains in it, a file in it that decides is
            damaged, or ``resume`` asks for a run that is not there.
    """
    if resume not in RESUME:
        raise DataError(f"resume is {resume!r}: it must be one of {', '.join(RESUME)}.")
    config = json.loads(json.dumps(config, default=str))
    passed: list[str] = []
    for number in itertools.count(1):
        run = Run(Path(runs_dir) / (name if number == 1 else f"{name}_{number}"))
        if not run.folder.exists() and resume == "must":
            reasons = "".join(f" {reason}." for reason in passed) or f" There is no {run.folder}."
            raise DataError(f"No unfinished run of this config to go on with.{reasons}")
        if run.create(config):
            if passed:
                logger.warning("This is a new run, %s. %s.", run.folder, ". ".join(passed))
            return run
        reason = _why_not(run, config, resume)
        if reason is None:
            remove_parts(run.folder)
            return run
        passed.append(reason)


def _outcome(runs_dir: str, name: str, config: dict[str, Any], resume: str) -> tuple[str | None, list[str]]:
    try:
        return str(start_run(runs_dir, name, config, resume).folder), []
    except DataError as error:
        return None, error.problems


def _refuse_lower_case_switches(config: dict[str, Any]) -> None:
    """On MONAI's command line only Python's spelling is a bool; the text "false" would switch on."""
    for name, value in config.items():
        if value in ("true", "false"):
            raise DataError(f"{name} is the text '{value}', not a switch: write --{name} {value.capitalize()}.")


def _why_not(run: Run, config: Mapping[str, Any], resume: str) -> str | None:
    """Why an existing folder is not the one to train in; None when it is, and locked."""
    if resume == "off":
        return f"{run.folder} is kept as it is"
    if _has_finished(run, config):
        tidy_folder(run.folder)
        return f"{run.folder} is finished"
    try:
        other = run.config()
    except DataError as error:
        raise DataError(
            f"{error} Without it nobody can tell whether this is the run to go on with; or give --resume off."
        ) from error
    if _is_same(other, config):
        lock_folder(run.folder)
        return (
            f"{run.folder} has just finished" if _has_finished(run, config) else None
        )  # while the lock was waited for
    return (
        f"{run.folder} is not finished, but has another config ({_difference(other, config)}); to go on with it: "
        f"python -m monai.bundle run training --config_file {run.config_file}"
    )


def _has_finished(run: Run, config: Mapping[str, Any]) -> bool:
    """Whether a run has come to its end; one whose record was damaged is brought there again from its checkpoint."""
    if not run.is_finished:
        return False
    try:
        run.record()
    except DataError:
        if not (run.can_resume and _is_same(run.config(), config)):
            raise
        logger.warning("%s is damaged: the run goes on from its last checkpoint.", run.record_file)
        return False
    return True


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return next(_differences(one, other), None) is None


def _difference(there: Mapping[str, Any], here: Mapping[str, Any], shown: int = 3) -> str:
    found = list(itertools.islice(_differences(there, here), shown + 1))
    texts = [f"{key} is {_short(one)} there and {_short(other)} here" for key, one, other in found[:shown]]
    return "; ".join(texts) + (" ..." if len(found) > shown else "")


def _differences(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys in MONAI's spelling (a#b#0) whose values differ, with both; None stands for a key that is not there."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = [name for name in dict.fromkeys([*one, *other]) if key or name not in HOW]
        for name in names:
            yield from _differences(one.get(name), other.get(name), f"{key}#{name}" if key else name)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{key}#{number}")
    elif one != other and not (_is_path(one) and _is_path(other) and _real(one) == _real(other)):
        yield key, one, other


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith(CONFIG_MARKS)


def _real(path: str) -> str:
    return os.path.realpath(path) if os.path.exists(path) else os.path.normpath(path)


def _short(value: Any, length: int = 60) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 4] + " ..."
