# SPDX-License-Identifier: Apache-2.0
"""Several trainings at a time, each a process forked from this one, which has imported everything.

A training of narrow networks waits for Python, which starts small kernels; as many trainings as there are cores share a
GPU, best with NVIDIA's MPS (``nvidia-cuda-mps-control -d``), so that kernels of several processes run at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from short_runs import Process

__all__ = ["HOW", "Job", "train_all"]

HOW = ["--precision", "float32", "--num_workers", "0", "--tensorboard", "False"]
"""Options that change how a training is computed, and not which: in float32 as on a CPU, crops made in its process."""


class Job:
    """A training, or several of which each starts from the one before.

    Args:
        title: what to call it.
        parts: of each the arguments of ``monai.bundle``, asked for when the one before has ended, and its log.
        done: called when all have ended.
    """

    def __init__(
        self, title: str, parts: Sequence[tuple[Callable[[], list[str]], Path]], done: Callable[[], None] = lambda: None
    ) -> None:
        self.title, self.done = title, done
        self.left = list(parts)
        self.process: Process | None = None

    def start(self) -> None:
        """Start what is next of it."""
        words, log = self.left.pop(0)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.process = Process([*words(), *HOW], log)


def train_all(jobs: Sequence[Job], count: int | None = None, minutes: float | None = None) -> None:
    """Train all, and say how each ended.

    Args:
        jobs: in the order in which they start.
        count: how many at a time; default: the number of cores.
        minutes: start nothing after these, and stop what runs, which its command goes on with; default: no end.

    Raises:
        SystemExit: after all others have ended, when one failed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    waiting, running, failed = list(jobs), {}, []
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < (count or os.cpu_count() or 1):
            job = waiting.pop(0)
            running[job] = time.monotonic()
            job.start()
        for job in [one for one in running if one.process.poll() is not None]:
            if job.process.code == 0 and job.left:
                job.start()
                continue
            seconds = time.monotonic() - running.pop(job)
            if job.process.code == 0:
                job.done()
            else:
                failed.append(job.title)
            how = f"{seconds:.0f} s" if job.process.code == 0 else f"exit code {job.process.code}"
            print(f"{job.title}: {how}; {len(waiting)} wait, {len(running)} run", flush=True)
        time.sleep(0.2)
    for job in running:
        job.process.send(signal.SIGTERM)
    for job in running:
        job.process.wait()
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}. The logs are beside the runs.")
