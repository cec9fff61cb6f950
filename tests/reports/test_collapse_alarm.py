# SPDX-License-Identifier: Apache-2.0
"""The alarm on collapsed pseudo-labels: when it fires, when it must not, what it says and records."""

import logging

import pytest
import torch
from ignite.engine import Engine

from scripts.reports import CollapseAlarm, CollapseError
from scripts.runs import RunLog

LABELS = {"0": "background", "1": "head", "2": "tail"}
HEALTHY = [0.8, 0.1, 0.1]


def train(folder, pseudo_by_epoch, label=HEALTHY, steps=2, **kwargs):
    def step(engine, batch):
        pseudo = pseudo_by_epoch[engine.state.epoch - 1]
        output = {"loss": torch.tensor(1.0)}
        if pseudo is not None:
            output["pseudo_class_share"] = torch.tensor(pseudo)
        if label is not None:
            output["label_class_share"] = torch.tensor(label)
        return output

    engine = Engine(step)
    CollapseAlarm(folder, LABELS, **{"after": 0.0, "patience": 3} | kwargs).attach(engine)
    engine.run([0] * steps, max_epochs=len(pseudo_by_epoch))
    return [r for r in RunLog(folder / "train_log.jsonl").read() if "alarm" in r]


@pytest.mark.parametrize(
    ("collapsed", "named"),
    [([0.9999, 0.0001, 0.0], "'background' holds 99.99%"), ([0.9, 0.0999, 0.0001], "'tail' has 0.010%")],
    ids=["one class holds all", "one class has vanished"],
)
def test_it_fires_once_after_patience(tmp_path, caplog, collapsed, named):
    with caplog.at_level(logging.WARNING):
        alarms = train(tmp_path, [HEALTHY] + 6 * [collapsed])
    assert [a["epoch"] for a in alarms] == [4]
    assert named in alarms[0]["alarm"] and "ramp" in alarms[0]["alarm"]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [alarms[0]["alarm"]]


@pytest.mark.parametrize(
    ("epochs", "label"),
    [
        (6 * [HEALTHY], HEALTHY),
        (3 * [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], HEALTHY], HEALTHY),
        (6 * [[0.98, 0.01, 0.01]], HEALTHY),
        (6 * [[0.9995, 0.0003, 0.0002]], [0.9994, 0.0003, 0.0003]),
        (6 * [None], HEALTHY),
    ],
    ids=["healthy", "never three in a row", "unlabelled crops hold less foreground", "a tiny organ", "supervised"],
)
def test_it_is_silent(tmp_path, epochs, label):
    assert train(tmp_path, epochs, label) == []


def test_it_waits_for_the_end_of_the_ramp(tmp_path):
    alarms = train(tmp_path, 10 * [[1.0, 0.0, 0.0]], after=0.4)
    assert [a["epoch"] for a in alarms] == [7]  # epochs 5, 6 and 7 come after 40 % of ten


def test_it_fires_again_after_a_recovery(tmp_path):
    collapsed = 3 * [[1.0, 0.0, 0.0]]
    assert [a["epoch"] for a in train(tmp_path, [*collapsed, HEALTHY, *collapsed])] == [3, 7]


def test_it_judges_the_mean_of_an_epoch(tmp_path):
    flips = iter(20 * [[1.0, 0.0, 0.0], HEALTHY])

    class Alternating(list):
        def __getitem__(self, epoch):
            return next(flips)

    assert train(tmp_path, Alternating([None] * 6)) == []


def test_it_works_without_shares_of_the_labels(tmp_path):
    assert len(train(tmp_path, 3 * [[1.0, 0.0, 0.0]], label=None)) == 1


def test_it_can_stop_the_run(tmp_path):
    with pytest.raises(CollapseError, match="'background' holds"):
        train(tmp_path, 9 * [[1.0, 0.0, 0.0]], stop=True)
    assert len(RunLog(tmp_path / "train_log.jsonl").read()) == 1
