# SPDX-License-Identifier: Apache-2.0
"""Two processes on a CPU train as one: same weights, scores over all cases, files written once."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scripts.data import phantom_dataset

HERE = Path(__file__).parent


def torchrun(bundle_root, run_id, configs, **overrides):
    """`torchrun --nproc_per_node=2 -m monai.bundle run`, whose output is returned."""
    options = [f"--{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", run_id, f"--config_file={configs}", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=bundle_root, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def scores(path):
    """{(case, network): Dice} of a metrics.csv, whose rows must be unique."""
    with path.open() as file:
        rows = [(row["case"], row["network"], float(row["dice"])) for row in csv.DictReader(file)]
    assert len({row[:2] for row in rows}) == len(rows)
    return {row[:2]: row[2] for row in rows}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bundle_root):
    """A run of two epochs of two steps, with three validation and three test cases for the two processes."""
    folder = tmp_path_factory.mktemp("two_processes")
    # Not dividable by two, so that one process has more cases than the other.
    counts = {"labeled": 4, "unlabeled": 4, "validation": 3, "test": 3}
    data = phantom_dataset(folder / "data", size=(20, 20, 20), **counts, progress=False)
    dump = {
        "_target_": "dump_ranks.DumpRanks",
        "folder": str(folder),
        "network": "@network_to_use",  # a moving average: equal only if what it follows is
        "method": "@method",
    }
    (folder / "dump.json").write_text(json.dumps({"+train#handlers": [dump]}))
    options = {
        "dataset_dir": data,
        "runs_dir": str(folder / "runs"),
        "patch_size": "[16,16,16]",
        "base_channels": 4,
        "stem_stride": 1,
    }
    options |= {
        "use_average": True,
        "norm": "batch",
        "max_epochs": 2,
        "epoch_length": 2,
        "val_interval": 1,
        "batch_size": 1,
        "unlabeled_batch_size": 1,
    }
    configs = [
        "configs/train.json",
        "configs/methods/paper.json",
        "configs/multi_gpu_train.json",
        str(folder / "dump.json"),
    ]
    output = torchrun(bundle_root, "training", configs, **options)
    (run,) = (folder / "runs").iterdir()
    return SimpleNamespace(folder=folder, run=run, output=output, options=options)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["parameters", "buffers", "method"])
def test_both_processes_hold_the_same_though_they_saw_different_scans(trained, part):
    one, other = (torch.load(trained.folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["loss"] != other["loss"]
    assert one[part].keys() == other[part].keys() and one[part]
    for name, value in one[part].items():
        assert torch.equal(value, other[part][name]), name


@pytest.mark.slow
def test_validation_and_test_are_over_all_cases(trained):
    summary = json.loads((trained.run / "metrics.json").read_text())
    assert summary["cases"] == 3
    assert {network for _, network in scores(trained.run / "metrics.csv")} == set(summary["networks"])
    assert len(scores(trained.run / "metrics.csv")) == 3 * len(summary["networks"])


@pytest.mark.slow
def test_files_and_lines_are_written_once(trained):
    records = [json.loads(line) for line in (trained.run / "train_log.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records if "losses" in r] == [1, 2]
    assert [r["epoch"] for r in records if "validation" in r] == [1, 2]
    assert trained.output.count("epoch 2/2 |") == 1
    assert trained.output.count("Written to") == 1
    assert {"config.json", "model.pt", "results.md", "run.json"} <= {path.name for path in trained.run.iterdir()}
    assert not [path.name for path in trained.run.rglob("*.part*")]


@pytest.mark.slow
def test_evaluating_with_two_processes_gives_the_same_scores_again(trained, bundle_root):
    configs = [
        "configs/train.json",
        "configs/methods/paper.json",
        "configs/evaluate.json",
        "configs/multi_gpu_evaluate.json",
    ]
    torchrun(bundle_root, "evaluating", configs, **trained.options)
    again = scores(trained.run / "evaluation" / "metrics.csv")
    assert again == pytest.approx(scores(trained.run / "metrics.csv"), abs=1e-6)
