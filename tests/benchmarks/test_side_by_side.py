# SPDX-License-Identifier: Apache-2.0
"""Trainings side by side: what is on record is not trained again, what follows another waits, failures are named."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The script as it is, but for the trainings, which leave what finished ones leave, and its result files.
PROGRAM = """
import json, os, pathlib, sys
sys.path[:0] = [{benchmarks!r}, {tests!r}]
import pool, records, short_runs, side_by_side, test_ablation
records.RESULTS = pathlib.Path({results!r})
runs = pathlib.Path("runs").resolve()

class Process(short_runs.Process):
    def _run(self, words, within, rank):
        given = dict(zip(words[2::2], words[3::2]))
        name = pathlib.Path(given["--config_file"].rpartition("/")[2].rstrip("']")).stem
        if name == {failing!r}:
            os._exit(7)
        how = [word for option in pool.HOW[::2] for word in (option, given[option])]
        overrides = [*how, "--max_epochs", given["--max_epochs"]]
        seed, cell = int(given["--seed"]), pathlib.Path(given["--runs_dir"])
        start = given.get("--initial_weights")
        assert start is None or pathlib.Path(start).exists()
        made = pathlib.Path(given["--datalist_name"] if "--datalist_name" in given else "datalist_8.json").name
        test_ablation.finish(runs / "made", name, seed, [0.5 + seed / 10] * 4, *overrides, datalist=made, start=start)
        made = runs / "made" / ("hippocampus_" + made[9:-5]) / f"hippocampus_{{name}}_seed{{seed}}"
        (made / "model.pt").touch()
        made.rename(cell / made.name)
        os._exit(0)

pool.Process = Process
side_by_side.fire.Fire(side_by_side.side_by_side)
"""


def run(folder, data, *options, failing=""):
    (folder / "runs").mkdir(exist_ok=True)
    program = PROGRAM.format(
        benchmarks=str(ROOT / "benchmarks"),
        tests=str(Path(__file__).parent),
        results=str(folder / "results"),
        failing=failing,
    )
    words = ["hippocampus", "--dataset_dir", data, "--jobs", "3", "--max_epochs", "20", *options]
    return subprocess.run(
        [sys.executable, "-c", program, *words], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_what_is_missing_is_trained_and_on_record(tmp_path, data, benchmark_scripts):
    records = benchmark_scripts("records", tmp_path / "results")
    first = run(tmp_path, data, "--labels", "2,8", "--rows", "control,voting")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("4 trainings, 0 on record")
    found = records.read("hippocampus_20_epochs")
    rows = sorted((one["method"], one["datalist"], one["seed"]) for one in found)
    assert rows == [(name, f"datalist_{labels}.json", 0) for name in ("control", "voting") for labels in "28"]
    assert all(one["options"] == {"max_epochs": "20"} for one in found)  # how it was computed is no other experiment
    (tmp_path / "results" / "hippocampus_20_epochs.json").unlink()
    options = ("--labels", "2", "--rows", "control", "--seeds", "2", "--minutes", "5")
    second = run(tmp_path, data, *options)
    assert second.stdout.startswith("1 trainings, 1 on record")  # what has ended and is not on record is not repeated
    again = records.read("hippocampus_20_epochs")
    assert [one["seed"] for one in again] == [0, 1]
    assert again[0] in found


def test_a_training_that_fails_is_named_after_the_others_have_ended(tmp_path, data, benchmark_scripts):
    done = run(tmp_path, data, "--rows", "control,uamt,cps", failing="uamt")
    assert done.returncode == 1
    assert "Failed: datalist_8.json uamt seed 0" in done.stderr and "uamt seed 0: exit code 7" in done.stdout
    records = benchmark_scripts("records", tmp_path / "results")
    assert {one["method"] for one in records.read("hippocampus_20_epochs")} == {"control", "cps"}


def test_what_monai_bundle_does_not_train_is_refused(data, benchmark_scripts):
    with pytest.raises(SystemExit, match="nnunet, but there are control"):
        benchmark_scripts("side_by_side").side_by_side("hippocampus", data, rows="control,nnunet")
