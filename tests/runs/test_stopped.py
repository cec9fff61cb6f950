# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped has a model to use, too: the best so far; it goes on from where it was all the same."""

import json

import pytest
import torch
from engines.conftest import make_network
from runs.test_state import run

from scripts.networks import MovingAverage
from scripts.runs import Run, finish_stopped_run, save_model_so_far

CONFIG = {
    "use_average": False,
    "seed": 0,
    "labels": {"0": "background", "1": "a"},
    "in_channels": 1,
    "spacing": [1.0, 1.0, 1.0],
    "patch_size": [16, 16, 16],
    "overlap": 0.5,
    "intensity": {"_target_": "NormalizeIntensityd", "keys": "image"},
    "network_def": {"_target_": "scripts.networks.DualNetwork"},
}


def stop(folder, scores=None, at=7, average=None):
    """Train 4 epochs of 2 steps, and stop in the middle."""
    run(folder, stop_at_step=at, scores=scores, average=average)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"use_average": average is not None}))
    return Run(folder)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("scores", "epoch"), [(None, 2), ([0.7, 0.1, 0.3, 0.5], 1)], ids=["last epoch", "best epoch"])
def test_the_model_so_far_is_the_best_epoch_on_validation_or_else_the_last(tmp_path, scores, epoch):
    stopped = stop(tmp_path, scores, at=8)
    expected = stopped.best_model if scores else None
    expected = torch.load(expected or stopped.state, weights_only=True)
    assert save_model_so_far(tmp_path) == epoch
    assert same(torch.load(stopped.model, weights_only=True), expected if scores else expected["network"])
    choice = stopped.choice()
    assert (choice["epoch"], choice["epochs"], choice["validation_metric"]) == (epoch, 2, 0.7 if scores else None)
    assert stopped.inference()["ckpt_path"] == str(stopped.model) and not stopped.is_finished


def test_the_moving_average_is_the_model_where_it_is_the_one_to_use(tmp_path):
    average = MovingAverage(make_network(), decay=0.5)
    stopped = stop(tmp_path, at=6, average=average)  # in the last step of epoch 2: the average has gone on since
    state = torch.load(stopped.state, weights_only=True)
    save_model_so_far(tmp_path)
    weights = torch.load(stopped.model, weights_only=True)
    assert weights.keys() == state["network"].keys() and not same(weights, state["network"])
    assert all(torch.equal(weights[name], state["state"]["average"][f"module.{name}"]) for name in weights)


def test_a_stopped_run_goes_on_as_if_nobody_had_asked_for_its_model(tmp_path):
    run(tmp_path / "whole")
    stop(tmp_path / "stopped", at=8)
    save_model_so_far(tmp_path / "stopped")
    run(tmp_path / "stopped")
    whole, stopped = (torch.load(Run(tmp_path / name).model, weights_only=True) for name in ("whole", "stopped"))
    assert same(whole, stopped)


def test_before_the_first_epoch_and_after_the_last_there_is_nothing_to_save(tmp_path):
    stop(tmp_path, at=2)
    assert save_model_so_far(tmp_path) is None and not Run(tmp_path).model.exists()
    stopped = stop(tmp_path, at=8)
    save_model_so_far(tmp_path)
    finish_stopped_run(tmp_path)
    assert stopped.is_finished and stopped.record()["stopped"]
    stopped.model.unlink()
    assert save_model_so_far(tmp_path) is None and not stopped.model.exists()
