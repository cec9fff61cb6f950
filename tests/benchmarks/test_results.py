# SPDX-License-Identifier: Apache-2.0
"""The table of runs says what was run, and names no folder of the machine it ran on."""

import json
import runpy
from pathlib import Path

import pytest

write_results = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "results.py"))["write_results"]

SCORES = {
    name: {"mean": 0.5, "std": 0.25}
    for name in ("dice", "jaccard", "hd95_mm", "hd95_pooled_mm", "asd_mm", "hd95_voxels")
}


def make_run(folder, method, *arguments, **config):
    folder.mkdir(parents=True)
    network = {"mean_foreground": SCORES, "classes": {"atrium": {**SCORES, "empty_pred": 1}}}
    files = {
        "config.json": {"dataset_name": "hearts", "datalist_name": "datalist.json", "method_name": method, **config},
        "model.json": {"seed": 0, "iterations": 70, "chosen": "last epoch"},
        "run.json": {
            "command": [
                "/opt/monai",
                "run",
                "training",
                "--dataset_dir",
                "/data/me",
                "--runs_dir",
                "/mine",
                *arguments,
            ],
            "device": "CPU, 1 threads",
            "versions": {"torch": "2", "monai": "1"},
        },
        "metrics.json": {"cases": 3, "labels": {"1": "atrium"}, "networks": {"ensemble": network}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "train_log.jsonl").write_text('{"seconds": 90}\n{"seconds": 30}\n')
    return str(folder)


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "results.md"
    path.write_text("before\n<!-- runs -->\nold\n<!-- /runs -->\nafter\n")
    return path


def test_a_run_is_written_between_the_marks(tmp_path, document):
    write_results(make_run(tmp_path / "one", "supervised"), document=str(document))
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| hearts | datalist.json | supervised | 0 | 70 | 2 | 0.500 ± 0.250 |" in text
    assert "`python -m monai.bundle run training --dataset_dir DIR`" in text and "/mine" not in text


def test_a_run_says_whose_weights_it_started_from(tmp_path, document):
    start = str(tmp_path / "runs_of_mine" / "hearts_supervised_seed0" / "model.pt")
    run = make_run(tmp_path / "two", "cps", "--initial_weights", start, "--max_epochs", "40", initial_weights=start)
    write_results(run, document=str(document))
    text = document.read_text()
    assert "| cps, from hearts_supervised_seed0 |" in text and "### hearts, cps, from hearts_supervised_seed0" in text
    assert "--initial_weights runs/hearts_supervised_seed0/model.pt --max_epochs 40`" in text
    assert "runs_of_mine" not in text


def test_runs_stay_in_the_table_and_a_repeated_one_replaces_its_row(tmp_path, document):
    first, second = make_run(tmp_path / "one", "supervised"), make_run(tmp_path / "two", "cps")
    write_results(first, second, document=str(document))
    both = document.read_text()
    other = make_run(tmp_path / "three", "supervised", dataset_name="brains")
    again = Path(make_run(tmp_path / "four", "cps"))
    (again / "train_log.jsonl").write_text('{"seconds": 600}\n')
    write_results(other, document=str(document))
    write_results(str(again), document=str(document))
    text = document.read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| hearts", "| brains"))]
    assert [row.split(" | ")[2] for row in rows] == ["supervised", "cps", "supervised"]
    assert "| cps | 0 | 70 | 10 |" in rows[1] and "| cps | 0 | 70 | 2 |" in both
    assert text.count("### hearts, cps, seed 0") == 1 and text.count("### ") == 3
    assert "70 steps in 10 min" in text
    write_results(other, document=str(document))
    assert document.read_text() == text
    with pytest.raises(SystemExit, match="Name the folders"):
        write_results(document=str(document))


def test_an_unfinished_run_is_refused(tmp_path, document):
    run = make_run(tmp_path / "three", "cps")
    (tmp_path / "three" / "run.json").unlink()
    before = document.read_text()
    with pytest.raises(SystemExit, match="no finished run"):
        write_results(run, document=str(document))
    assert document.read_text() == before
