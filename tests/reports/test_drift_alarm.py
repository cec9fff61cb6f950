# SPDX-License-Identifier: Apache-2.0
"""The alarm on a second part that leaves what the supervised one had learnt."""

import logging

import pytest
import torch
from ignite.engine import Engine, Events

from scripts.engines import memories
from scripts.reports import DriftAlarm
from scripts.runs import RunLog

SIZE = 8
SCANS = [{"image": torch.zeros(1, SIZE, SIZE)}, {"image": torch.zeros(1, SIZE, SIZE)}]


def logits(rows):
    """Class 1 in the first rows, class 2 in the last two, background between."""
    labels = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    labels[:, :rows] = 1
    labels[:, -2:] = 2
    return torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()


class Networks(torch.nn.Module):
    """Networks a and b whose class 1 has so many rows in each epoch; together they say what a says."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.epoch = 0

    def members(self, image):
        a, b = self.rows[self.epoch - 1]
        return logits(a), logits(b), logits(a)


def train(folder, rows, **options):
    """Train through epochs with these rows; the first is the supervised part."""
    networks = Networks(rows)

    def step(engine, batch):
        networks.epoch = engine.state.epoch

    engine = Engine(step)
    engine.state.device = "cpu"
    settings = {"warm_up_epochs": 1, "interval": 1, "labels": {"1": "head", "2": "tail"}} | options
    alarm = DriftAlarm(folder, networks, lambda image, members: members(image), SCANS, dict, **settings)
    alarm.attach(engine)
    engine.run([0], max_epochs=len(rows))
    return engine, [record for record in RunLog(folder / "train_log.jsonl").read() if "alarm" in record]


def test_what_it_sees_in_the_scans(tmp_path):
    networks = Networks([(4, 2)])
    networks.epoch = 1
    alarm = DriftAlarm(tmp_path, networks, lambda image, members: members(image), SCANS, dict, warm_up_epochs=1)
    seen = alarm.look("cpu")
    assert seen["volumes"] == [2 * 4 * SIZE, 2 * 2 * SIZE]
    assert seen["agreement"] == pytest.approx([2 * 2 / (4 + 2), 1.0], abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(2, 2), (3, 3), (5, 5), (5, 5), (5, 5)], "'head' has 2.50 times its volume"),
        ([(4, 4), (1, 1), (1, 1), (1, 1)], "'head' has 0.25 times its volume"),
        ([(4, 4), (4, 4), (4, 2), (4, 2)], "the two networks agree by a Dice of 0.83, not 1.00"),
    ],
    ids=["grows", "shrinks", "disagree"],
)
def test_it_fires_once_when_seen_twice(tmp_path, caplog, rows, said):
    with caplog.at_level(logging.WARNING):
        engine, alarms = train(tmp_path, rows)
    assert [alarm["epoch"] for alarm in alarms] == [4 if len(rows) == 5 or rows[1] == (4, 4) else 3]
    assert said in alarms[0]["alarm"] and "stop_on_drift" in alarms[0]["alarm"]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [alarms[0]["alarm"]]
    assert engine.state.epoch == len(rows)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([(4, 4), (5, 4), (4, 5), (5, 5)], {}),
        ([(4, 4), (1, 1), (4, 4), (1, 1)], {}),
        ([(1, 3), (2, 3), (3, 3), (1, 1)], {"volume_ratio": 3.5}),
        ([(4, 4), (1, 1), (1, 1)], {"warm_up_epochs": 0}),
        ([(4, 4), (1, 1), (1, 1), (1, 1)], {"interval": 5}),
    ],
    ids=["healthy", "never twice in a row", "they agree more", "no supervised part", "not looked at"],
)
def test_it_is_silent(tmp_path, rows, options):
    assert train(tmp_path, rows, **options)[1] == []


def test_asked_to_it_stops_the_training(tmp_path):
    engine, alarms = train(tmp_path, [(4, 4)] + 9 * [(1, 1)], stop=True)
    assert engine.state.drifted and engine.state.epoch == 3 and len(alarms) == 1


def test_a_resumed_run_comes_to_the_same_verdict(tmp_path):
    engine, alarms = train(tmp_path / "first", [(4, 4), (1, 1)])
    assert alarms == []
    networks = Networks([(1, 1)])
    networks.epoch = 1
    alarm = DriftAlarm(tmp_path, networks, lambda image, members: members(image), SCANS, dict, 1, interval=1)
    resumed = Engine(lambda engine, batch: None)
    resumed.state.device = "cpu"
    alarm.attach(resumed)
    memories(resumed)["drift_alarm"].load_state_dict(memories(engine)["drift_alarm"].state_dict())

    @resumed.on(Events.STARTED)
    def enter(resumed):
        resumed.state.epoch = resumed.state.iteration = 2

    resumed.run([0], max_epochs=3)
    assert [record["epoch"] for record in RunLog(tmp_path / "train_log.jsonl").read()] == [3]
