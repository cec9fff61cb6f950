# SPDX-License-Identifier: Apache-2.0
"""Take from a training what it needs, look at how it ends, give it back, and let it go on.

``python benchmarks/faults.py HIPPOCAMPUS``; HIPPOCAMPUS is the folder with datalist_8.json. The result is kept in
results/reliability.json; ``--keep False`` prints it as JSON instead.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fire
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.reliability import keep_row
from benchmarks.short_runs import NAME, Training, digest, few_scans, leftovers, wait_for
from scripts.runs import Run


def memory_limit(rank: int) -> None:
    """As ``ulimit -v``: some mebibytes more than the program itself, which the first step does not fit into."""
    limit = psutil.Process().memory_info().vms + 24 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def full_disk(after: int) -> Callable[[int], None]:
    """Files of tensors no longer fit on the disk, after so many have."""

    def within(rank: int) -> None:
        import torch

        save, written = torch.save, []

        def fail(content, file, *args, **options):
            written.append(file)
            if len(written) <= after:
                return save(content, file, *args, **options)
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        torch.save = fail

    return within


def scan_goes(training: Training, data: Path) -> None:
    for path in (data / "images").iterdir():
        path.rename(path.with_suffix(".gone"))


def scan_comes_back(data: Path) -> None:
    for path in (data / "images").iterdir():
        path.rename(path.with_suffix(".gz")) if path.suffix == ".gone" else None


def scan_is_cut_off(training: Training, data: Path) -> None:
    for path in (data / "images").iterdir():
        shutil.copy(path, data / path.name)
        os.truncate(path, 1000)


def scan_is_whole(data: Path) -> None:
    for path in data.glob("*.nii.gz"):
        path.replace(data / "images" / path.name)


def loader_dies(training: Training, data: Path) -> None:
    process = psutil.Process(training.pid)
    while training.poll() is None:  # they come and go
        for child in process.children():
            child.send_signal(signal.SIGKILL)
        time.sleep(0.005)


def interrupt(training: Training, data: Path) -> None:
    training.send(signal.SIGINT)


def nothing(*args: object) -> None:
    """Nothing is to be done."""


MID_RUN = "epoch 1/"
AT_ITS_START = "the run has its folder"
# what is taken: (within the process before it starts; when; what is done then; how it is put right; options)
FAULTS: dict[str, tuple] = {
    "memory (`ulimit -v`)": (memory_limit, None, nothing, nothing, {}),
    "disk full at the first checkpoint": (full_disk(0), None, nothing, nothing, {}),
    "disk full at a later one": (full_disk(3), None, nothing, nothing, {}),
    "scans removed in mid-run": (nothing, MID_RUN, scan_goes, scan_comes_back, {}),
    "scans cut off in mid-run": (nothing, MID_RUN, scan_is_cut_off, scan_is_whole, {}),
    "process that loads data killed": (nothing, MID_RUN, loader_dies, nothing, {"num_workers": 1}),
    "Ctrl-C before the first step": (nothing, AT_ITS_START, interrupt, nothing, {}),
}


def one(place: Path, data: Path, name: str) -> dict[str, object]:
    """A row: how a training ends without it, and whether it goes on to the same end with it."""
    within, moment, act, mend, options = FAULTS[name]
    runs, log, whole = place / "runs", place / "log", place / "whole"
    for folder in (runs, whole):
        shutil.rmtree(folder, ignore_errors=True)
    log.unlink(missing_ok=True)
    if Training(data, whole, place / "whole.log", **options).wait() != 0:
        sys.exit((place / "whole.log").read_text())
    training = Training(data, runs, log, within=within, **options)
    if moment is not None:
        if moment == MID_RUN:
            wait_for(log, moment, training)
        else:
            wait_for(Run(runs / NAME).config_file, "", training)
        act(training, data)
    code, text = training.wait(), log.read_text()
    mend(data)
    again = Training(data, runs, log, **options).wait()
    same = digest(Run(runs / NAME).model) == digest(Run(whole / NAME).model) != ""
    sentences = [line for line in text.splitlines() if line.startswith("Error: ")]
    if "Traceback" in text or len(sentences) > 1 or again or not same:
        print(f"{name}\n{text[-3000:]}\n{log.read_text()[-1500:]}", file=sys.stderr)
    row = {"taken away": name, "exit code": code if code >= 0 else 128 - code, "sentences": len(sentences)}
    row |= {"tracebacks": text.count("Traceback (most"), "then goes on to the same end": "yes" if same else "no"}
    return row | {"left over": len(leftovers(runs))}


def main(hippocampus: str, only: str = "", keep: bool = True) -> None:
    """Fill the table of docs/runs.md.

    Args:
        hippocampus: folder of the scans.
        only: one of the faults; default: all.
        keep: whether to keep the rows.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = few_scans(Path(hippocampus).resolve(), Path(folder, "data"))
        for name in [only] if only else FAULTS:
            rows.append(one(Path(folder), data, name))
            if keep:
                keep_row("faults", rows[-1], ("taken away",))
    print(json.dumps(rows))


if __name__ == "__main__":
    fire.Fire(main)
