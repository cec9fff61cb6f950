# SPDX-License-Identifier: Apache-2.0
"""How much of a training's time its checkpoints take.

``python benchmarks/saving_cost.py``: the default run on the phantom, with its networks and its intervals, for one epoch
of each part, its validation scans, too. The result is kept in results/reliability.json.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import fire
import torch
from monai.bundle import ConfigParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.reliability import keep_row
from scripts.data import phantom_dataset
from scripts.runs import Run, RunState, state

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """Sums the time within calls of functions, the outermost ones."""

    def __init__(self) -> None:
        self.seconds, self.calls, self._inside = 0.0, 0, False

    def around(self, function):
        """The function, timed."""

        def timed(*args, **options):
            if self._inside:
                return function(*args, **options)
            self._inside, begin = True, time.monotonic()
            try:
                return function(*args, **options)
            finally:
                self._inside = False
                self.seconds += time.monotonic() - begin
                self.calls += 1

        return timed


def main(epochs: int = 2, epoch_length: int = 25) -> None:
    """Add a row to the table of docs/runs.md.

    Args:
        epochs: how many; the first half is the supervised part.
        epoch_length: steps of each; the default run has 25, so this is where it saves most often.
    """
    torch.set_num_threads(1)
    clock = Clock()
    RunState._write = clock.around(RunState._write)
    RunState._content = clock.around(RunState._content)
    state._save_finite = clock.around(state._save_finite)
    with tempfile.TemporaryDirectory() as folder:
        data = phantom_dataset(Path(folder, "data"), labeled=4, unlabeled=6, validation=2, test=1, progress=False)
        parser = ConfigParser()
        parser.read_config(str(ROOT / "configs" / "train.json"))
        options = {"dataset_dir": data, "runs_dir": str(Path(folder, "runs")), "bundle_root": str(ROOT)}
        options |= {"max_epochs": epochs, "epoch_length": epoch_length, "val_interval": epochs, "tensorboard": False}
        parser.config.update(options)
        trainer = parser.get_parsed_content("train#trainer")
        begin = time.monotonic()
        trainer.run()
        whole = time.monotonic() - begin
        size = Run(next(Path(folder, "runs").iterdir())).state.stat().st_size
    row = {"steps": epochs * epoch_length, "steps between checkpoints": epoch_length, "seconds": round(whole, 1)}
    row |= {"files written": clock.calls, "checkpoint in MB": round(size / 1e6, 1)}
    row |= {"seconds of saving": round(clock.seconds, 2), "share": f"{clock.seconds / whole:.1%}"}
    print(row)
    keep_row("saving", row, ("steps",))


if __name__ == "__main__":
    fire.Fire(main)
