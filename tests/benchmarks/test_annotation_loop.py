# SPDX-License-Identifier: Apache-2.0
"""What becomes of the rounds of simulated annotators; the rounds themselves need MONAI Label."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def loop(monkeypatch):
    server = ModuleType("label_server")
    server.LabelServer = object  # needs MONAI Label
    monkeypatch.setitem(sys.modules, "label_server", server)
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import annotation_loop

    yield annotation_loop
    del sys.modules["annotation_loop"]


SETTING = {"base_channels": 4, "pool": 8, "tests": 2, "steps": 20, "labels": [2, 4]}


def rounds(*dice):
    return [
        {"labels": 2 + 2 * i, "chosen": [], "seconds": 10, "dice": [one - 0.1, one + 0.1]} for i, one in enumerate(dice)
    ]


def test_repetitions_are_averaged_and_only_a_strategy_that_always_wins_counts_as_better(loop, tmp_path):
    file = tmp_path / "annotation.json"
    played = {
        "entropy": (rounds(0.3, 0.8), rounds(0.5, 0.7)),
        "diversity": (rounds(0.3, 0.9), rounds(0.5, 0.5)),
        "random": (rounds(0.3, 0.7), rounds(0.5, 0.6)),
    }
    for strategy, repetitions in played.items():
        for number, one in enumerate(repetitions):
            loop.keep(file, "hippocampus", SETTING, strategy, number, one)
    text = loop.tables(json.loads(file.read_text()))
    assert "| hippocampus: labels | entropy | diversity | random |" in text
    assert "| 4 | 0.750 ± 0.050 | 0.700 ± 0.200 | 0.650 ± 0.050 |" in text
    assert "over 2 repetitions" in text and "10 s a training" in text
    assert text.endswith("Better than random in every repetition: entropy (by 0.100).\n")


def test_a_repetition_that_not_all_strategies_have_is_not_compared(loop, tmp_path):
    file = tmp_path / "annotation.json"
    for strategy, number in (("random", 0), ("random", 1), ("entropy", 0)):
        loop.keep(file, "hippocampus", SETTING, strategy, number, rounds(0.3, 0.7 + number / 10))
    text = loop.tables(json.loads(file.read_text()))
    assert "| 4 | 0.700 ± 0.000 | 0.700 ± 0.000 |" in text and "1 repetition." in text and "each" not in text
    assert text.endswith("in every repetition: none.\n")


def test_results_of_another_setting_are_not_mixed_in(loop, tmp_path):
    file = tmp_path / "annotation.json"
    loop.keep(file, "hippocampus", SETTING, "random", 0, rounds(0.3, 0.7))
    loop.keep(file, "left_atrium", SETTING, "random", 0, rounds(0.3, 0.7))
    loop.keep(file, "hippocampus", SETTING | {"steps": 40}, "entropy", 0, rounds(0.3, 0.7))
    content = json.loads(file.read_text())
    assert (
        list(content["hippocampus"]["strategies"]) == ["entropy"] and "random" in content["left_atrium"]["strategies"]
    )
