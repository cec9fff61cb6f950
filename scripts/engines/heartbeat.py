# SPDX-License-Identifier: Apache-2.0
"""Processes that train together notice when one of them hangs, and end instead of waiting for it for ever."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from ..ranks import rank, world_size

__all__ = ["Heartbeat", "unwatch_processes", "watch_processes"]

ENDED = b"ended"


class Heartbeat:
    """Tells the other processes of a job every few seconds that this one lives, and watches that they do (ours).

    A thread does so: it goes on while the process computes, reads or waits in a collective, and stops when the process
    is stopped, swapped out or stuck in the kernel. A process that has died takes its connections with it, which ends
    the others by itself where gloo connects them; NCCL waits for minutes.

    Args:
        store: that all of the job share.
        rank: of this process.
        world_size: how many there are.
        seconds: without a sign of life after which a process counts as lost.
        interval: seconds between two signs.
        lost: called with the rank of a lost process, from the thread; default: one sentence, and the process ends with
            exit code 1.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        seconds: float = 45.0,
        interval: float = 3.0,
        lost: Callable[[int], None] | None = None,
    ) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self.seconds, self.interval = seconds, interval
        self.lost = self._end if lost is None else lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; processes count once they have begun, too: when this returns, this one does."""
        self.store.set(self._key(self.rank), "0")
        self._thread.start()

    def stop(self) -> None:
        """Tell the others that this process ends as it should."""
        self._stop.set()
        self._thread.join(timeout=self.interval)

    def _watch(self) -> None:
        beats, seen = 0, {}
        others = [other for other in range(self.world_size) if other != self.rank]
        try:
            while not self._stop.wait(self.interval if beats else 0):
                beats += 1
                self.store.set(self._key(self.rank), str(beats))
                for other in others:
                    beat = self.store.get(self._key(other)) if self.store.check([self._key(other)]) else None
                    now = time.monotonic()
                    if beat is None or beat == ENDED or seen.get(other, (None,))[0] != beat:
                        seen[other] = (beat, now)
                    elif now - seen[other][1] > self.seconds:
                        self.lost(other)
                        return
            self.store.set(self._key(self.rank), ENDED)
        except RuntimeError:  # the store has gone with the process that had it, or with the job
            return

    def _end(self, other: int) -> None:
        sys.stderr.write(
            f"Error: Process {other} of {self.world_size} has given no sign of life for {self.seconds:.0f} s: it has "
            "died or hangs. This one ends, too. Start the job again: it goes on from the last checkpoint.\n"
        )
        sys.stderr.flush()
        os._exit(1)

    @staticmethod
    def _key(rank: int) -> str:
        return f"dualseg/alive/{rank}"


_running: list[Heartbeat] = []


def watch_processes() -> None:
    """Start this process's :class:`Heartbeat`, where several work together; once is enough (ours)."""
    if world_size() == 1 or _running:
        return
    # A connection of its own: the thread must not wait for what the main thread asks of the store.
    store = dist.distributed_c10d._get_default_store().clone()
    _running.append(Heartbeat(store, rank(), world_size()))
    _running[0].start()


def unwatch_processes() -> None:
    """End what :func:`watch_processes` began."""
    while _running:
        _running.pop().stop()
