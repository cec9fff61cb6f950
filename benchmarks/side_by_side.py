# SPDX-License-Identifier: Apache-2.0
"""Train rows of the ablation side by side on one GPU, which a single training of narrow networks leaves idle.

    nvidia-cuda-mps-control -d
    python benchmarks/side_by_side.py hippocampus --dataset_dir DIR --labels 2,8 --max_epochs 20 --jobs 16

What a finished training found is added to the result file, as by ablation.py, which writes the tables and trains what
is no row of monai.bundle: self-training and nnU-Net.
"""

from __future__ import annotations

from functools import partial

import fire
from ablation import Cell, names_of
from pool import Job, train_all
from records import Run
from rows import METHODS, ROWS


def side_by_side(
    dataset: str,
    dataset_dir: str,
    labels: str | tuple = "8",
    rows: str | tuple[str, ...] | None = None,
    seeds: int = 1,
    jobs: int | None = None,
    minutes: float | None = None,
    runs_dir: str = "runs",
    max_epochs: int | None = None,
) -> None:
    """Train what is missing of these rows, several at a time.

    Args:
        dataset: name of a config in configs/datasets.
        dataset_dir: folder of its datalists.
        labels: numbers of labelled scans, with commas between them.
        rows: names of rows, with commas between them; default: all that monai.bundle trains.
        seeds: each row with the seeds 0 to this number less one.
        jobs: how many at a time; default: the number of cores.
        minutes: start nothing after these, and stop what runs: the same command goes on with it.
        runs_dir: where the run folders are, in a folder for each data set and number of labels.
        max_epochs: of a shorter budget than the recipe's.

    Raises:
        SystemExit: when an argument names nothing that exists, or a training failed.
    """
    able = {name: row for name, row in METHODS.items() if row.program is None}
    names = names_of(rows, able)
    counts = labels if isinstance(labels, tuple) else str(labels).split(",")
    options = {} if max_epochs is None else {"max_epochs": str(max_epochs)}
    cells = [Cell.make(dataset, dataset_dir, one, options, runs_dir=runs_dir) for one in counts]
    wanted = [(cell, name, seed) for seed in range(seeds) for cell in cells for name in names]
    found = [make_job(*one) for one in wanted if one[2] not in one[0].finished(one[1])]
    for job in found:
        if not job.left:  # trained by a command that was ended before it put it on record
            job.done()
    waiting = [job for job in found if job.left]
    print(f"{len(waiting)} trainings, {len(wanted) - len(waiting)} on record", flush=True)
    train_all(waiting, jobs, minutes)


def make_job(cell: Cell, name: str, seed: int) -> Job:
    """A row, after the one that it starts from; what has been trained of it is left out."""
    chain = [one for one in (ROWS[name].after, name) if one]
    parts = [
        (partial(cell.arguments, one, seed), cell.runs / f"{one}_seed{seed}.log")
        for one in chain
        if not Run(cell.folder(one, seed)).is_finished
    ]
    return Job(f"{cell.datalist} {name} seed {seed}", parts, lambda: cell.add(cell.folder(name, seed)))


if __name__ == "__main__":
    fire.Fire(side_by_side)
