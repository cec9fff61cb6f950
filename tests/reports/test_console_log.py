# SPDX-License-Identifier: Apache-2.0
"""Progress of a training: lines for a log, a bar in a terminal, records that a resumed run continues."""

import io
import json
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from rich.console import Console

from scripts.reports import TrainingConsole
from scripts.runs import RunLog

LABELS = {"0": "background", "1": "chamber"}


def step(engine, batch):
    """Losses that grow by the step, so that means are known: loss 1 to n, consistency ten times that."""
    value = torch.tensor(float((engine.state.iteration - 1) % engine.state.epoch_length + 1))
    return {
        "loss": value,
        "consistency": 10 * value,
        "kept_fraction": torch.tensor(0.8),
        "pseudo_class_share": torch.tensor([0.9, 0.1]),
        "image": torch.zeros(2, 1, 4, 4),
    }


def train(folder, epochs=2, process=step, terminal=False, start=0, **kwargs):
    stream = io.StringIO()
    engine = Engine(process)
    engine.optimizer = SimpleNamespace(param_groups=[{"lr": 0.01}])
    console = Console(file=stream, force_terminal=terminal, width=200)
    TrainingConsole(folder, LABELS, console=console, **kwargs).attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "max_epochs": epochs, "epoch_length": 4})
        engine.run([0] * 4)
    else:
        engine.run([0] * 4, max_epochs=epochs)
    return stream.getvalue()


def test_a_log_gets_one_line_per_epoch(tmp_path):
    lines = train(tmp_path).splitlines()
    assert len(lines) == 3
    for i, line in enumerate(lines[:2], 1):
        assert line.startswith(f"epoch {i}/2 | ") and "s/step" in line and "eta 0:00:0" in line
        assert "loss 2.5000, consistency 25.0000, kept 80%" in line
        assert "pseudo-labels background 90.0%, chamber 10.0%" in line
    assert lines[2].startswith("Trained epochs 1 to 2 in 0:00:0")


def test_a_terminal_gets_a_bar_and_keeps_the_lines(tmp_path):
    text = train(tmp_path, terminal=True, refresh_steps=1)
    assert "4/4" in text or "3/4" in text
    assert "epoch 1/2 | " in text and "epoch 2/2 | " in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # every hidden cursor is shown again


def test_a_failure_clears_the_bar_away_and_is_raised(tmp_path):
    def fail(engine, batch):
        raise RuntimeError("no such patch")

    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    engine = Engine(fail)
    handler = TrainingConsole(tmp_path, LABELS, console=console)
    handler.attach(engine)
    with pytest.raises(RuntimeError, match="no such patch"):
        engine.run([0] * 4)
    assert console.file.getvalue().endswith("\x1b[2K")  # the bar's line is erased
    assert handler._progress is None


def test_log_lines_go_through_the_bar_while_it_is_live(tmp_path, monkeypatch):
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    log = logging.StreamHandler(stdout)
    monkeypatch.setattr(logging.getLogger(), "handlers", [log])
    streams = []

    def process(engine, batch):
        streams.append(log.stream)
        return step(engine, batch)

    train(tmp_path, process=process, terminal=True)
    assert len(streams) == 8 and not any(stream is stdout for stream in streams)
    assert log.stream is stdout


def test_the_file_holds_the_means_of_each_epoch(tmp_path):
    train(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert [(r["epoch"], r["iteration"]) for r in records] == [(1, 4), (2, 8)]
    assert records[1]["losses"] == {"loss": 2.5, "consistency": 25.0}
    assert records[1]["pseudo_class_share"] == pytest.approx([0.9, 0.1])
    assert records[1]["kept_fraction"] == pytest.approx(0.8) and records[1]["learning_rate"] == 0.01


def test_a_decollated_output_reads_the_same(tmp_path):
    train(tmp_path, epochs=1, process=lambda engine, batch: [step(engine, batch)])
    assert RunLog(tmp_path / "train_log.jsonl").read()[0]["losses"]["loss"] == 2.5


def test_a_loss_that_some_steps_lack_is_the_mean_of_the_others(tmp_path):
    def process(engine, batch):
        output = step(engine, batch)
        if engine.state.iteration % 2:
            del output["consistency"]
        return output

    train(tmp_path, epochs=1, process=process)
    assert RunLog(tmp_path / "train_log.jsonl").read()[0]["losses"] == {"loss": 2.5, "consistency": 30.0}


def test_a_resumed_run_replaces_the_epochs_it_repeats(tmp_path):
    train(tmp_path, epochs=3)
    log = RunLog(tmp_path / "train_log.jsonl")
    log.append({"epoch": 2, "validation": {"dice": 0.1}})
    with log.path.open("a") as file:
        file.write('{"epoch": 3, "los')  # killed while writing
    first = log.read()[0]
    text = train(tmp_path, epochs=4, start=1)
    records = log.read()
    assert [r["epoch"] for r in records] == [1, 2, 3, 4]
    assert records[0] == first and not any("validation" in r for r in records)
    assert text.startswith("epoch 2/4") and "Trained epochs 2 to 4" in text


def test_a_new_run_in_an_old_folder_starts_a_new_log(tmp_path):
    train(tmp_path, epochs=3)
    train(tmp_path, epochs=1)
    assert [r["epoch"] for r in RunLog(tmp_path / "train_log.jsonl").read()] == [1]


@pytest.mark.parametrize("console_first", [True, False])
def test_validation_is_shown_and_recorded_after_its_epoch(tmp_path, console_first):
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(val_mean_dice=torch.tensor(0.5)))
    stream = io.StringIO()
    trainer = Engine(step)
    console = TrainingConsole(tmp_path, evaluator=evaluator, console=Console(file=stream, width=200))
    if console_first:
        console.attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        # As MONAI's Evaluator.run(global_epoch) does.
        evaluator.state.max_epochs, evaluator.state.epoch = engine.state.epoch, engine.state.epoch - 1
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.7, 1
        evaluator.run([0], epoch_length=1)

    if not console_first:
        console.attach(trainer)
    trainer.run([0, 0], max_epochs=1)
    assert stream.getvalue().count("epoch 1/1 |") == 1
    assert stream.getvalue().index("epoch 1/1 |") < stream.getvalue().index("validation after epoch 1")
    assert "val_mean_dice 0.5000 (best 0.7000 at epoch 1)" in stream.getvalue()
    assert RunLog(tmp_path / "train_log.jsonl").read()[-1]["validation"] == {"val_mean_dice": 0.5}


def test_a_loss_that_is_not_a_number_is_valid_json(tmp_path):
    train(tmp_path, epochs=1, process=lambda engine, batch: {"loss": torch.tensor(float("nan"))})
    text = (tmp_path / "train_log.jsonl").read_text()
    assert '"loss": null' in text and "NaN" not in text
