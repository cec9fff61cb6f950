# SPDX-License-Identifier: Apache-2.0
"""The command of the README, killed while it trains and given again, ends with the weights of a run left alone."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from scripts.data import phantom_dataset

EPOCHS = 4


def command(bundle_root, data, runs):
    options = {
        "dataset_dir": data,
        "runs_dir": runs,
        "max_epochs": EPOCHS,
        "epoch_length": 4,
        "val_interval": 2,
        "base_channels": 4,
        "batch_size": 2,
        "unlabeled_batch_size": 2,
        "tensorboard": False,
        "run": "['$@train#trainer.run()']",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.json", *arguments]


def start(bundle_root, data, runs):
    return subprocess.Popen(
        command(bundle_root, data, runs),
        cwd=bundle_root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_run_given_the_same_command_ends_with_the_same_weights(bundle_root, tmp_path):
    data = phantom_dataset(
        tmp_path / "data", size=(32, 32, 32), labeled=2, unlabeled=3, validation=1, test=1, progress=False
    )
    whole = start(bundle_root, data, tmp_path / "whole")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output

    killed = start(bundle_root, data, tmp_path / "killed")
    checkpoint = tmp_path / "killed" / "phantom_mean_teacher_copy_paste_seed0" / "last.pt"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert checkpoint.exists()
    epoch = torch.load(checkpoint, weights_only=True)["epoch"]
    assert epoch < EPOCHS, "the run ended before it could be killed"

    again = start(bundle_root, data, tmp_path / "killed")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert f"Resumed after epoch {epoch}" in output
    weights = [
        torch.load(p, weights_only=True) for p in tmp_path.glob("*/phantom_mean_teacher_copy_paste_seed0/model.pt")
    ]
    assert len(weights) == 2
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
