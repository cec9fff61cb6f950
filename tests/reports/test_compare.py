# SPDX-License-Identifier: Apache-2.0
import csv
import json
import shlex

import pytest

from scripts.cli import main
from scripts.errors import DataError
from scripts.reports.compare import case_scores, compare_runs
from scripts.runs import Run

MEASURES = ("dice", "surface_dice", "hd95_mm", "asd_mm")


def make(folder, scores):
    """A run whose ensemble has these Dice scores, {case: (head, tail)}; its other network is much worse."""
    folder.mkdir()
    with Run(folder).scores_file.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "network", "name", *MEASURES, "empty_pred", "image"])
        for network, factor in (("ensemble", 1), ("network a", 0.1)):
            for case, classes in scores.items():
                for name, dice in zip(("head", "tail"), classes, strict=True):
                    numbers = (dice * factor, dice * factor, 9 - dice, 1)
                    writer.writerow([case, network, name, *numbers, False, f"/data/{case}.nii.gz"])
    return Run(folder)


@pytest.fixture
def runs(tmp_path):
    first = {f"case{n}": (0.5 + n / 100, 0.6) for n in range(7)} | {"only_here": (0.1, 0.1)}
    second = {f"case{n}": (0.6 + n / 100, 0.6) for n in range(7)}
    second["case0"] = (0.6, float("nan"))
    return make(tmp_path / "one", first), make(tmp_path / "two", second)


def test_shared_cases_are_compared_by_class_and_by_their_mean(runs):
    result = compare_runs(*runs)
    assert result["left_out"] == ["only_here"]
    assert result["head"]["dice"]["mean"] == pytest.approx(0.1) and result["head"]["dice"]["p"] < 0.05
    assert result["tail"]["dice"]["cases"] == 6 and result["tail"]["dice"]["mean"] == 0
    assert result["mean"]["dice"]["larger"] == 7
    assert case_scores(runs[1])["case0"]["mean"]["dice"] == pytest.approx(0.6)  # of the class that has a value


def test_the_command_shows_and_writes_it(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(runs[0].folder), str(runs[1].folder), "--output", str(tmp_path / "found.json")])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "+0.100" in shown and "7, 0 of 7" in shown and "only_here" in shown
    # a smaller distance is better
    assert json.loads((tmp_path / "found.json").read_text())["head"]["hd95_mm"]["smaller"] == 7


def test_runs_without_common_scores_are_refused(runs, tmp_path):
    with pytest.raises(DataError, match="has scored no scan"):
        compare_runs(runs[0], make(tmp_path / "three", {"other": (0.1, 0.2)}))
    with pytest.raises(DataError, match="metrics.csv. Train with test scans, or evaluate it"):
        compare_runs(runs[0], Run(tmp_path / "none"))


def test_a_patient_with_several_scans_counts_once(tmp_path, capsys, monkeypatch, caplog):
    names = [f"patient{n}_frame{frame}" for n in range(6) for frame in range(3)]
    first = make(tmp_path / "one", dict.fromkeys(names, (0.5, 0.5)))
    gains = {name: 0.1 if name[7] < "5" else -0.1 for name in names} | {"patient0_frame0": 0.4}
    second = make(tmp_path / "two", {name: (0.5 + gain, 0.5) for name, gain in gains.items()})
    scans = compare_runs(first, second)["head"]["dice"]
    [warning] = [record.getMessage() for record in caplog.records]
    assert "patient0_frame0 and patient0_frame1 look like scans of one patient, patient0 (6 such)" in warning
    [group] = shlex.split(warning.split("--group ")[1].rstrip("."))
    patients = compare_runs(first, second, group=group)["head"]["dice"]
    assert len(caplog.records) == 1
    assert (scans["cases"], scans["larger"], scans["smaller"]) == (18, 15, 3)
    assert (patients["cases"], patients["larger"], patients["smaller"]) == (6, 5, 1)
    assert patients["mean"] == pytest.approx((0.2 + 0.1 * 4 - 0.1) / 6) and patients["p"] > scans["p"]
    assert patients["second"] == pytest.approx(0.5 + patients["mean"])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(first.folder), str(second.folder), "--group", "patient[0-9]+"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "5, 1 of 6" in shown and "test over patients" in shown


@pytest.mark.parametrize(
    ("group", "message"),
    [("(", "not a regular expression"), ("subject", "case0: the pattern 'subject' for the patient")],
)
def test_a_pattern_that_finds_no_patient_is_refused(runs, group, message):
    with pytest.raises(DataError, match=message):
        compare_runs(*runs, group=group)
