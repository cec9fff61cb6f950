# SPDX-License-Identifier: Apache-2.0
"""The command of MONAI that a command of ours stands for: shown, then run."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ...errors import DataError

__all__ = ["INTERRUPTED", "parse_settings", "run_bundle"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
START = Path(__file__).parents[1] / "start_monai.py"
"""``python -m monai.bundle``, where Ctrl-C may come at any time."""


def run_bundle(
    configs: Sequence[Path], options: Mapping[str, Any], run_id: str = "run", go_on: str = "", show: bool = True
) -> int:
    """Run ``python -m monai.bundle run`` in a process of its own, and say so before (ours).

    Args:
        configs: layered configs; the first one lies in the bundle.
        options: what to override in them.
        run_id: what to run.
        go_on: what to tell a user who interrupts it.
        show: whether to print the command.

    Returns:
        Its exit code; of a process that a signal ended 128 + the signal, after Ctrl-C ``INTERRUPTED``.
    """
    settings = [f"--{key}={value}" for key, value in options.items() if value is not None]
    arguments = ["run", run_id, "--config_file", repr([str(path) for path in configs]), *settings]
    if show:
        shown = map(_shown, ["python", "-m", "monai.bundle", *arguments])
        Console(stderr=True).print(*shown, markup=False, highlight=False, soft_wrap=True)
    # A folder named scripts where the user happens to be must not be taken for the bundle's package.
    process = subprocess.Popen([sys.executable, str(START), *arguments], env={**os.environ, "PYTHONSAFEPATH": "1"})
    try:
        with _passing_on(process):
            code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # the terminal has sent it the signal, too
        sys.stderr.write(f"\nInterrupted. {go_on}\n")
        return INTERRUPTED
    return code if code >= 0 else 128 - code


@contextmanager
def _passing_on(process: subprocess.Popen) -> Iterator[None]:
    """What a cluster or a user asks of this process is meant for the training: it saves, and ends or goes on."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.signal(number, lambda number, frame: process.send_signal(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(word: str) -> str:
    """A word as a shell takes it; in double quotes, where single ones would need quoting themselves."""
    plain = shlex.quote(word)
    return f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else plain


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """``["max_epochs=10", "a#b=c"]`` as {key: value} (ours).

    Raises:
        DataError: when one has no key or no value.
    """
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key.strip() and equals and value):
            raise DataError(f"--set {setting}: must be KEY=VALUE, such as --set max_epochs=10.")
        parsed[key.strip()] = value
    return parsed
