# SPDX-License-Identifier: Apache-2.0
"""The command line ``dualseg``: what to run, and how its errors are shown."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fire
import fire.decorators

from ..bundle_files import BUNDLE, INSTALLED
from ..errors import DataError, plain_words
from .training.bundle_command import INTERRUPTED

__all__ = ["COMMANDS", "EXIT_CODES", "main"]


class _Commands(Mapping[str, Callable[..., "int | None"]]):
    """Commands by name, each imported when it is asked for: most need torch and MONAI, which take seconds.

    Args:
        places: of each the module, whose last name is the function's.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Callable[..., int | None]:
        place = self._places[name]
        return getattr(import_module(f".{place}", __package__), place.rpartition(".")[2])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def summary(self, name: str) -> str:
        """First line of what a command says of itself, read from its source."""
        place = self._places[name]
        source = Path(find_spec(f".{place}", __package__).origin).read_text(encoding="utf-8")
        functions = {one.name: one for one in ast.parse(source).body if isinstance(one, ast.FunctionDef)}
        return ast.get_docstring(functions[place.rpartition(".")[2]]).splitlines()[0]


COMMANDS = _Commands(
    {
        "train": "training.train",
        "predict": "training.predict",
        "evaluate": "training.evaluate",
        "compare": "training.compare",
        "report": "training.report",
        "export": "training.export",
        "next": "training.next_scans",
        "selftrain": "training.selftrain",
        "accept": "accept",
        "methods": "methods",
        "bundle": "training.bundle",
        "split": "split",
        "check": "check",
        "check_config": "check_config",
        "convert": "convert",
        "prepare": "prepare",
    }
)
EXIT_CODES = {
    0: "done",
    1: "the data or the request cannot be used; one message on stderr says why and what to do",
    2: "the command line was not understood",
    3: "done, except for scans that cannot be used, which are named",
    INTERRUPTED: "interrupted by Ctrl-C; the same command goes on, or starts again",
    143: "stopped by SIGTERM, a training after its step; the same command goes on",
}
SETTING = "--set"
# Fire keeps what SetParseFns says in an attribute of the function: under a public name, help offers it as a command.
fire.decorators.FIRE_METADATA = "__fire_metadata__"


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
    plain = fire.decorators.SetParseFns(**dict.fromkeys(texts, str))

    @plain
    @functools.wraps(command)
    def job(*arguments: Any, **options: Any) -> _Job:
        return _Job(lambda: command(*arguments, **options))

    return job


def main(command: list[str] | None = None) -> None:
    """Run a command and exit.

    The exit code is one of ``EXIT_CODES``.
    """
    words = sys.argv[1:] if command is None else command
    if not words or words[0] in ("--help", "-h", "help"):
        _show_help()
        sys.exit(0)
    if words[0] == "--version":
        print(_version())
        sys.exit(0)
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        sys.stderr.write(f"Error: {words[0]}: no such command. {meant}There are {', '.join(COMMANDS)}.\n")
        sys.exit(2)
    try:
        commands = {words[0]: _deferred(COMMANDS[words[0]])}
        job = fire.Fire(commands, command=_join_settings(words), name="dualseg", serialize=lambda result: None)
        sys.exit((job._call() if isinstance(job, _Job) else 0) or 0)
    except DataError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt as error:
        sys.stderr.write(f"\n{plain_words(error)}\n")
        sys.exit(INTERRUPTED)


def _show_help() -> None:
    """All commands with a line on each."""
    name, width = "dualseg" if INSTALLED else "python -m scripts", max(map(len, COMMANDS))
    print(f"Usage: {name} COMMAND ...\n")
    for one in COMMANDS:
        print(f"  {one:<{width}}  {COMMANDS.summary(one)}")
    print(f"\n{name} COMMAND --help says all of a command; {name} --version the version.")
    print(f"For example: {name} train scans --labeled 8 --test 10")


def _version() -> str:
    return json.loads((BUNDLE / "metadata.json").read_text(encoding="utf-8"))["version"]


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
