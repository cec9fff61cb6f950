# SPDX-License-Identifier: Apache-2.0
"""Crops a second of a training in one process and in several, as torchrun starts them, by turns.

    python benchmarks/scale.py --dataset_dir ../shared/data/hippocampus --dataset hippocampus     # about five minutes

Each process has the config's batch, so several look at more crops a step. Every round trains each of the variants for
the same few steps, losses and loader included; the first epoch, in which all is prepared, does not count. On a CPU a
process has one thread, or, in the last variant, one process has as many threads as the others are processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "scale.json"
sys.path.insert(0, str(ROOT))

from scripts.hardware import device_name  # noqa: E402
from scripts.runs import Run  # noqa: E402

EPOCHS = 3


def step_seconds(options: argparse.Namespace, processes: int, threads: int, runs: Path) -> float:
    """Median over the epochs after the first of the mean time of a step."""
    layers = ["train", f"datasets/{options.dataset}", f"recipes/{options.recipe}"]
    launcher = [sys.executable]
    if processes > 1:
        layers.append("multi_gpu_train")
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    settings = {"dataset_dir": options.dataset_dir, "runs_dir": runs, "run_name": "scale", "tensorboard": False}
    settings |= {"max_epochs": EPOCHS, "epoch_length": options.steps, "warm_up": 0}
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    files = str([f"configs/{layer}.json" for layer in layers])
    command = [*launcher, "-m", "monai.bundle", "run", "training", "--config_file", files, *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    records = Run(runs / "scale").log.read()
    return statistics.median([record["step_seconds"] for record in records if record["epoch"] > 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, type=Path, help="folder of the datalist")
    parser.add_argument("--dataset", default="folder", help="name of a config in configs/datasets")
    parser.add_argument("--recipe", default="cpu", help="name of a config in configs/recipes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    options.dataset_dir = options.dataset_dir.absolute()
    torch.set_num_threads(1)
    variants = {"1 process": (1, 1), f"{options.processes} processes": (options.processes, 1)}
    if not torch.cuda.is_available():
        variants[f"1 process, {options.processes} threads"] = (1, options.processes)
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append({name: step_seconds(options, *how, Path(folder, name)) for name, how in variants.items()})
    reference = next(iter(variants))
    throughput = {
        name: statistics.median(processes * each[reference] / each[name] for each in rounds)
        for name, (processes, _) in variants.items()
    }
    found = {
        "machine": f"{device_name()} a process, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
        "config": f"{options.dataset}, recipe {options.recipe}",
        "rounds": options.rounds,
        "steps": options.steps,
        "seconds_a_step": {name: round(statistics.median(each[name] for each in rounds), 3) for name in variants},
        "crops_a_second": {name: round(value, 3) for name, value in throughput.items()},
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"| | s a step | crops a second, {reference} = 1 |\n|---|---|---|")
    for name in variants:
        print(f"| {name} | {found['seconds_a_step'][name]} | {found['crops_a_second'][name]} |")
    print(found["machine"])


if __name__ == "__main__":
    main()
