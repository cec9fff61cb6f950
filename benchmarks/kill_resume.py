# SPDX-License-Identifier: Apache-2.0
"""Kill trainings at any moment, give the same command again, compare the end with that of a run left alone.

``python benchmarks/kill_resume.py HIPPOCAMPUS --kills 100 --terms 30 --processes 1``; HIPPOCAMPUS is the folder with
datalist_8.json. Half of the SIGKILLs strike at a random moment, half at a chosen one: just before or after a file gets
onto the disk or gets its name. SIGTERMs come at random moments. The result is kept in results/reliability.json.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fire

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.reliability import keep_row, read
from benchmarks.short_runs import NAME, Training, digest, few_scans, leftovers
from scripts.runs import Run

KILLS_A_RUN = 6
REACH = 0.7
"""Of the length of a whole run: what goes on has less before it."""
MOMENTS = ("fsync", "replace", "unlink", "mkdir")
"""Functions of the system that every file of a run goes through."""


class WriteTrap:
    """Kills all processes of a training when the first one calls one of :data:`MOMENTS` for the n-th time.

    Args:
        number: the call; None counts the calls into a file instead.
        after: whether the call is made before.
        counted: the file.
    """

    def __init__(self, number: int | None, after: bool = False, counted: Path | None = None) -> None:
        self.number, self.after, self.counted = number, after, counted
        self.calls = 0

    def __call__(self, rank: int) -> None:
        if rank == 0:
            for name in MOMENTS:
                setattr(os, name, self._around(getattr(os, name)))

    def _around(self, function):
        def call(*args, **options):
            self.calls += 1
            if self.counted is not None:
                self.counted.write_text(str(self.calls))
            strikes = self.calls == self.number
            if strikes and not self.after:
                os.killpg(0, signal.SIGKILL)
            result = function(*args, **options)
            if strikes:
                os.killpg(0, signal.SIGKILL)
            return result

        return call


def strike(training: Training, number: int, after: float) -> float | None:
    """Send a signal after some seconds; seconds until the end, None when the training had ended before."""
    end = time.monotonic() + after
    while training.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    if training.poll() is not None:
        return None
    begin = time.monotonic()
    training.send(number)
    training.wait()
    return time.monotonic() - begin


class Campaign:
    """Runs that are struck until they end.

    Args:
        data: folder of the scans.
        place: folder for everything else.
        processes: processes that train together.
        seed: of the moments.
    """

    def __init__(self, data: Path, place: Path, processes: int, seed: int) -> None:
        self.data, self.place, self.processes = data, place, processes
        self.draw = random.Random(seed)
        counted = place / "counted"
        begin = time.monotonic()
        whole = self.start("whole", WriteTrap(None, counted=counted))
        if whole.wait() != 0:
            sys.exit((place / "whole.log").read_text())
        self.seconds = time.monotonic() - begin
        self.calls = int(counted.read_text())
        self.expected = Run(place / "whole" / NAME)

    def start(self, name: str, within=lambda rank: None, **options: object) -> Training:
        """Begin or go on with a run."""
        return Training(self.data, self.place / name, self.place / f"{name}.log", self.processes, within, **options)

    def left_over(self, name: str) -> list[str]:
        """What does not belong there; a process that was killed after the run's end leaves it to the next start."""
        folder = self.place / name
        if leftovers(folder):
            time.sleep(6)
            self.start(name, resume="must").wait()
        return leftovers(folder) + [path.name for path in folder.iterdir() if path.name != NAME]

    def kill(self, name: str) -> float | None:
        """One SIGKILL; None when the run came to its end before it."""
        if self.draw.random() < 0.5:
            return strike(self.start(name), signal.SIGKILL, self.draw.uniform(0, REACH * self.seconds))
        begin = time.monotonic()
        trap = WriteTrap(self.draw.randint(1, int(REACH * self.calls)), self.draw.random() < 0.5)
        return None if self.start(name, trap).wait() == 0 else time.monotonic() - begin

    def term(self, name: str) -> float | None:
        """One SIGTERM."""
        return strike(self.start(name), signal.SIGTERM, self.draw.uniform(0, REACH * self.seconds))

    def run(self, number: signal.Signals, count: int) -> Iterator[dict[str, float]]:
        """Strike ``count`` times; after each run what came of all of them so far."""
        sent, runs, ended, alike, left, slowest = 0, 0, 0, 0, [], 0.0
        while sent < count:
            runs += 1
            name = f"{number.name}{runs}"
            for _ in range(min(KILLS_A_RUN, count - sent)):
                waited = (self.kill if number == signal.SIGKILL else self.term)(name)
                if waited is None:
                    break
                sent += 1
                if number == signal.SIGTERM:
                    slowest = max(slowest, waited)
                if Run(self.place / name / NAME).is_finished:  # the same command would begin another run
                    break
            run = Run(self.place / name / NAME)
            code = 0 if run.is_finished else self.start(name).wait()
            ended += run.is_finished
            same = digest(run.model) == digest(self.expected.model) != ""
            same &= digest(run.choice_file) == digest(self.expected.choice_file) != ""
            alike += same
            left += self.left_over(name)
            print(f"{name}: {sent} of {count} {number.name}, {alike} of {runs} runs alike", flush=True)
            yield {"sent": sent, "runs": runs, "ended": ended, "bit for bit": alike, "left over": len(left)} | (
                {"slowest end in s": round(slowest, 1)} if number == signal.SIGTERM else {}
            )
            if not same or not run.is_finished:
                print(f"exit code {code}\n{(self.place / f'{name}.log').read_text()[-4000:]}", flush=True)


def earlier(number: signal.Signals, processes: int) -> dict[str, float]:
    """The row that there is."""
    rows = [
        row for row in read().get("kill_resume", []) if (row["signal"], row["processes"]) == (number.name, processes)
    ]
    return rows[0] if rows else {}


def main(
    hippocampus: str, kills: int = 100, terms: int = 30, processes: int = 1, seed: int = 0, add: bool = False
) -> None:
    """Add one row for each signal to the table in docs/runs.md.

    Args:
        hippocampus: folder of the scans.
        kills: how many SIGKILLs.
        terms: how many SIGTERMs.
        processes: processes that train together.
        seed: of the moments.
        add: whether to add to what is there, of other seeds.
    """
    with tempfile.TemporaryDirectory() as place:
        data = few_scans(Path(hippocampus).resolve(), Path(place, "data"))
        campaign = Campaign(data, Path(place), processes, seed)
        print(f"a run takes {campaign.seconds:.1f} s and {campaign.calls} calls", flush=True)
        for number, count in ((signal.SIGKILL, kills), (signal.SIGTERM, terms)):
            if count:
                before = earlier(number, processes) if add else {}
                for found in campaign.run(number, count):
                    row = {"signal": number.name, "processes": processes}
                    for key, value in found.items():
                        there = before.get(key, 0)
                        row[key] = max(there, value) if key.startswith("slowest") else there + value
                    keep_row("kill_resume", row, ("signal", "processes"))
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    fire.Fire(main)
