# SPDX-License-Identifier: Apache-2.0
"""The command line ``dualseg``: what to run, and how its errors are shown."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fire
from fire.decorators import SetParseFns

from ..errors import DataError, plain_words
from .accept import accept
from .check import check
from .check_config import check_config
from .convert import convert
from .methods import methods
from .prepare import prepare
from .split import split
from .training.bundle import bundle
from .training.bundle_command import INTERRUPTED
from .training.compare import compare
from .training.evaluate import evaluate
from .training.export import export
from .training.next_scans import next_scans
from .training.predict import predict
from .training.report import report
from .training.selftrain import selftrain
from .training.train import train

__all__ = ["COMMANDS", "EXIT_CODES", "main"]

COMMANDS: dict[str, Callable[..., int | None]] = {
    "train": train,
    "predict": predict,
    "evaluate": evaluate,
    "compare": compare,
    "report": report,
    "export": export,
    "next": next_scans,
    "selftrain": selftrain,
    "accept": accept,
    "methods": methods,
    "bundle": bundle,
    "split": split,
    "check": check,
    "check_config": check_config,
    "convert": convert,
    "prepare": prepare,
}
EXIT_CODES = {
    0: "done",
    1: "the data or the request cannot be used; one message on stderr says why and what to do",
    2: "the command line was not understood",
    3: "done, except for scans that cannot be used, which are named",
    INTERRUPTED: "interrupted by Ctrl-C; the same command goes on, or starts again",
    143: "stopped by SIGTERM, a training after its step; the same command goes on",
}
SETTING = "--set"


class _Job:
    """A call that waits until Fire has understood the whole command line.

    Fire would run the command first and complain about a mistyped option afterwards: ``--labelled 8`` would write a
    datalist that uses every label.
    """

    def __init__(self, call: Callable[[], int | None]) -> None:
        self._call = call  # private: Fire offers public names as commands


def _deferred(command: Callable[..., int | None]) -> Callable[..., _Job]:
    """The command, called later; words stay as they were typed where it wants text: 2019_01 is a folder, no number."""
    texts = [
        name for name, kind in inspect.get_annotations(command, eval_str=True).items() if kind in (str, str | None)
    ]
    plain = SetParseFns(**dict.fromkeys(texts, str))

    @plain
    @functools.wraps(command)
    def job(*arguments: Any, **options: Any) -> _Job:
        return _Job(lambda: command(*arguments, **options))

    return job


def main(command: list[str] | None = None) -> None:
    """Run a command and exit.

    The exit code is one of ``EXIT_CODES``.
    """
    try:
        commands = {name: _deferred(function) for name, function in COMMANDS.items()}
        words = _join_settings(sys.argv[1:] if command is None else command)
        job = fire.Fire(commands, command=words, name="dualseg", serialize=lambda result: None)
        sys.exit((job._call() if isinstance(job, _Job) else 0) or 0)
    except DataError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt as error:
        sys.stderr.write(f"\n{plain_words(error)}\n")
        sys.exit(INTERRUPTED)


def _join_settings(words: Sequence[str]) -> list[str]:
    """All ``--set KEY=VALUE`` as one list: of an option that is given several times, Fire takes the last."""
    rest, settings, following = [], [], iter(words)
    for word in following:
        if word == SETTING:
            settings.append(next(following, ""))
        elif word.startswith(SETTING + "="):
            settings.append(word.removeprefix(SETTING + "="))
        else:
            rest.append(word)
    return [*rest, f"{SETTING}={json.dumps(settings)}"] if settings else rest
