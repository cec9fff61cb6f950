# SPDX-License-Identifier: Apache-2.0
"""What the outside asks of a training: to save, or to stop after the current step."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..ranks import world_size

__all__ = ["Signals", "TrainingStopped"]


class TrainingStopped(SystemExit):
    """A signal ended the training, and all of it is saved. Exit code: 128 + the signal's number, as shells have it."""


class Signals:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a request that the training looks at between two steps (ours).

    SIGTERM is what a cluster sends before it takes a machine back, SIGINT is Ctrl-C; a second one of the two ends the
    process at once, except under torchrun, which passes on what the processes have already got. What comes within
    :attr:`ONE` seconds is one signal, which a cluster has sent to this process and to the one that started it. SIGUSR1
    asks for a checkpoint.

    Attributes:
        save: whether a checkpoint is asked for.
        stop: exit code to stop with, 0 to go on.
    """

    SAVE = 1
    ONE = 1.0
    CODES = {getattr(signal, name): code for name, code in (("SIGTERM", 143), ("SIGINT", 130)) if hasattr(signal, name)}

    def __init__(self) -> None:
        self.save, self.stop = False, 0
        self._process = os.getpid()
        self._stopped_at = 0.0

    @property
    def request(self) -> int:
        """0, :attr:`SAVE`, or the exit code to stop with, which is larger."""
        return max(self.stop, self.SAVE if self.save else 0)

    @staticmethod
    def name(code: int) -> str:
        """The signal that has this exit code."""
        return signal.Signals(code - 128).name

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside the block; outside of a program's main thread they stay with the program.

        Raises:
            TrainingStopped: on leaving, when a request to stop has come too late to be seen inside.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.save, self.stop, self._process = False, 0, os.getpid()
        numbers = [*self.CODES, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]  # Windows has none
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.stop:
            raise TrainingStopped(self.stop)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # forked to load data: Ctrl-C reaches it, too, and the step needs its batch
            if number == signal.SIGTERM:
                self._die(number)
        elif number not in self.CODES:
            self.save = True
        elif not self.stop:
            self.stop, self._stopped_at = self.CODES[number], time.monotonic()
        elif world_size() == 1 and time.monotonic() - self._stopped_at > self.ONE:
            self._die(number)

    @staticmethod
    def _die(number: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
