# SPDX-License-Identifier: Apache-2.0
"""Damage every file of a run's folder, give the same command again, and see what comes of it.

``python benchmarks/damage.py HIPPOCAMPUS``; HIPPOCAMPUS is the folder with datalist_8.json. Each cell of the table is
one of: *same* (the run ended with the weights of an undamaged one), *sentence* (it ended in one sentence, exit code
1), *new* (a new run beside the damaged one, with a line that says so). Anything else is printed with its log. The
result is kept in results/reliability.json.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import fire

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.reliability import keep_row
from benchmarks.short_runs import NAME, Training, digest, few_scans, wait_for
from scripts.runs import Run


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero_block(path: Path) -> None:
    """A block of zeros, as a disk leaves it that lost power; 4096 bytes, or a third of a small file."""
    content = bytearray(path.read_bytes())
    length = min(4096, len(content) // 3)
    first = (len(content) - length) // 2
    content[first : first + length] = bytes(length)
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "bit flipped": flip,
    "missing": lambda path: path.unlink(),
    "zeroed block": zero_block,
}


def unfinished(data: Path, place: Path) -> dict[str, Path]:
    """Two runs: one stopped in the middle of its third epoch, one killed after its training and before its end."""
    middle, end = place / "in training", place / "before the end"
    training = Training(data, middle, place / "middle.log")
    wait_for(place / "middle.log", "epoch 2/", training)
    training.send(signal.SIGTERM)
    if training.wait() != 143:
        sys.exit((place / "middle.log").read_text())
    if Training(data, end, place / "end.log").wait() != 0:
        sys.exit((place / "end.log").read_text())
    Run(end / NAME).record_file.unlink()
    return {path.name: path for path in (middle, end)}


def judge(code: int, log: str, runs: Path, model: str) -> str:
    """What came of a damaged run, in a word."""
    sentences = [line for line in log.splitlines() if line.startswith("Error: ")]
    if "Traceback" in log:
        return "TRACEBACK"
    if code == 1 and len(sentences) == 1:
        return "sentence"
    if code == 0 and (runs / f"{NAME}_2").exists():
        return "new" if "This is a new run" in log else "NEW WITHOUT A WORD"
    if code == 0 and digest(Run(runs / NAME).model) == model != "":
        return "same"
    return "OTHER WEIGHTS" if code == 0 else f"EXIT CODE {code}"


def main(hippocampus: str, only: str = "") -> None:
    """Fill the table of docs/runs.md.

    Args:
        hippocampus: folder of the scans.
        only: files to damage, with commas between; default: all.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = few_scans(Path(hippocampus).resolve(), place / "data")
        moments = unfinished(data, place)
        model = digest(Run(moments["before the end"] / NAME).model)
        for moment, runs in moments.items():
            for file in sorted(path for path in (runs / NAME).rglob("*") if path.is_file() and path.name[0] != "."):
                name = str(file.relative_to(runs / NAME))
                if only and name not in only.split(","):
                    continue
                row = {"damaged": moment, "file": f"`{name}`"}
                for damage, spoil in DAMAGES.items():
                    copy = place / "copy"
                    shutil.copytree(runs, copy / "runs")
                    spoil(copy / "runs" / NAME / name)
                    code = Training(data, copy / "runs", copy / "log").wait()
                    text = (copy / "log").read_text()
                    row[damage] = judge(code, text, copy / "runs", model)
                    if row[damage].isupper():
                        print(f"{moment}, {name}, {damage}: {row[damage]}\n{text[-3000:]}", file=sys.stderr)
                    shutil.rmtree(copy)
                print(row, flush=True)
                keep_row("damage", row, ("damaged", "file"))


if __name__ == "__main__":
    fire.Fire(main)
