# SPDX-License-Identifier: Apache-2.0
"""Result files keep what runs found, and the tables say what the files hold, naming no folder of a machine."""

import json
import subprocess
from pathlib import Path

import pytest

SUMMARIES = ("dice", "jaccard", "hd95_mm", "hd95_pooled_mm", "asd_mm", "hd95_voxels")


@pytest.fixture
def results(benchmark_scripts, tmp_path, monkeypatch):
    """The script, with pages of its own that have a place for every table."""
    script = benchmark_scripts("results")
    cells = script.CELLS
    tables = {
        "README.md": ["results"],
        "docs/README.md": ["shipped"],
        "docs/results.md": ["results", *(f"runs {name}" for name in ("left_atrium", "hippocampus", "acdc"))],
        "docs/ablation.md": [
            "methods",
            *(f"comparison {dataset}" for dataset in script.COMPARED),
            *(f"cell {dataset} {labels}" for dataset, counts in cells.items() for labels in counts),
            *("ablation left_atrium 8", "ablation hippocampus 8"),
        ],
        "docs/lab/runs.md": ["networks"],
    }
    for page, names in tables.items():
        path = tmp_path / page
        path.parent.mkdir(parents=True, exist_ok=True)
        marks = "".join(f"<!-- table {name} -->\n<!-- end of {name} -->\n" for name in names)
        path.write_text(f"before\n{marks}after\n")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    return script


def make_run(folder, method, *arguments, dice=0.5, seed=0, steps=70, **config):
    folder.mkdir(parents=True)
    scores = dict.fromkeys(SUMMARIES, {"mean": dice, "std": 0.25})
    network = {"mean_foreground": scores, "classes": {"atrium": {**scores, "empty_pred": 1}}}
    defaults = {"dataset_name": "left_atrium", "datalist_name": "datalist_8.json", "method_name": method}
    words = ["/opt/monai", "run", "training", "--config_file", "['a.json', 'b.json']"]
    words += ["--dataset_dir", "/data/me", "--runs_dir", "/mine", "--seed", str(seed), *arguments]
    files = {
        "config.json": defaults | config,
        "model.json": {"seed": seed, "iterations": steps, "chosen": "last epoch"},
        "run.json": {
            "command": words,
            "device": "CPU, 1 threads",
            "peak_memory_gib": 1.25,
            "versions": {"torch": "2", "monai": "1"},
            "finished": "today",
        },
        "metrics.json": {"cases": 2, "labels": {"1": "atrium"}, "networks": {"ensemble": network, "a: net": network}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "train_log.jsonl").write_text('{"epoch": 1, "seconds": 90}\n{"epoch": 2, "seconds": 30}\n')
    rows = [f"case{case},ensemble,1,atrium,{dice},0.5,2,1\ncase{case},a: net,1,atrium,0,0,0,0" for case in (1, 2)]
    (folder / "metrics.csv").write_text(
        "case,network,class,name,dice,jaccard,hd95_mm,asd_mm\n"
        + "\n".join(rows)
        + "\ncase3,ensemble,1,atrium"
        + ",nan" * 4
    )
    return str(folder)


def test_a_run_is_in_the_file_and_in_the_table(results, tmp_path):
    results.results(make_run(tmp_path / "one", "supervised"))
    (run,) = results.records.read("left_atrium")
    assert run["scans"]["dice"] == {"case1": 0.5, "case2": 0.5}  # case3 has no value
    assert (run["minutes"], run["start"], run["networks"]["ensemble"]["empty"]) == (2.0, None, 1)
    text = (tmp_path / "docs" / "results.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| 8 | `supervised` |  | 0 | 70 | 0.500 | 0.500 | 0.50 | 0.50 | 2 | 1.2 |" in text
    command = (
        "python -m monai.bundle run training --config_file \"['a.json','b.json']\" \\\n  --dataset_dir DIR --seed N\n"
    )
    assert command in text
    assert "/mine" not in text and "/data/me" not in text
    assert "| a: net | 0.500 ± 0.250 |" in (tmp_path / "docs" / "lab" / "runs.md").read_text()


def test_a_run_says_whose_weights_it_started_from(results, tmp_path):
    start = str(tmp_path / "runs_of_mine" / "left_atrium_supervised_seed3" / "model.pt")
    arguments = ("--initial_weights", start, "--max_epochs", "40")
    results.results(make_run(tmp_path / "two", "cps", *arguments, seed=3, initial_weights=start))
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "| 8 | `cps` | supervised | 3 | 70 |" in text
    assert "--initial_weights runs/left_atrium_supervised_seedN/model.pt --max_epochs 40" in text
    assert "runs_of_mine" not in text


def test_runs_stay_in_the_file_and_a_repeated_one_replaces_its_record(results, tmp_path):
    results.results(make_run(tmp_path / "one", "supervised"), make_run(tmp_path / "two", "cps", dice=0.6))
    results.results(make_run(tmp_path / "three", "cps", dice=0.7, seed=1))
    results.results(make_run(tmp_path / "four", "cps", dice=0.8))
    found = {
        (run["method"], run["seed"]): run["networks"]["ensemble"]["dice"][0]
        for run in results.records.read("left_atrium")
    }
    assert found == {("supervised", 0): 0.5, ("cps", 0): 0.8, ("cps", 1): 0.7}
    before = (tmp_path / "results" / "left_atrium.json").read_text()
    results.results(str(tmp_path / "four"))
    assert (tmp_path / "results" / "left_atrium.json").read_text() == before


def test_the_unlabelled_scans_are_compared_with_their_control_alone(results, tmp_path):
    start = {seed: f"runs/left_atrium_supervised_seed{seed}/model.pt" for seed in (0, 1, 2)}
    make, part = [], {"steps": 140}
    for seed, dice in ((0, 0.70), (1, 0.72), (2, 0.10)):
        make.append(make_run(tmp_path / f"start{seed}", "supervised", seed=seed, dice=dice))
    for seed, dice in ((0, 0.80), (1, 0.82), (2, 0.20)):  # seed 2 of the method is not run
        make.append(
            make_run(tmp_path / f"c{seed}", "rectification", seed=seed, dice=dice, initial_weights=start[seed], **part)
        )
    for seed, dice in ((0, 0.83), (1, 0.83)):
        options = {"initial_weights": start[seed], **part}
        make.append(make_run(tmp_path / f"m{seed}", "mean_teacher_copy_paste", seed=seed, dice=dice, **options))
    every = {"datalist_name": "datalist_all.json", "initial_weights": start[0], **part}
    make.append(make_run(tmp_path / "all", "rectification", dice=0.85, **every))
    results.results(*make)
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "| left atrium, 8 scans | 0.710 | 0.810 | 0.830 | +2.0 points | 0.850 | 50% | 0, 1 | 4 |" in text
    assert "| left atrium, 4 scans | not run |" in text
    assert "left atrium, 4 scans" not in (tmp_path / "README.md").read_text()


def test_runs_with_the_budget_of_before_do_not_count_any_more(results):
    def record(dice, epochs, method="mean_teacher_copy_paste"):
        networks = {name: {"dice": [dice, 0.1]} for name in (results.FIRST_PART, "ensemble")}
        found = {
            "method": method,
            "start": None,
            "seed": 0,
            "steps": 50 * epochs,
            "options": {"max_epochs": str(epochs)},
        }
        return {**found, "datalist": "datalist_3.json", "networks": networks, "minutes": epochs}

    before, now = record(0.5, 100), record(0.7, 80)
    controls = [record(0.4, 100, "control"), record(0.6, 80, "control")]
    cells = results._unlabeled_cells([before, now, *controls], "3", {"max_epochs": "80"})
    assert cells == ["0.700", "0.600", "0.700", "+10.0 points", "", "", "0", "80"]
    # until the recipe's own are run, those of before stand in the table
    cells = results._unlabeled_cells([before, *controls], "3", {"max_epochs": "80"})
    assert cells == ["0.500", "0.400", "0.500", "+10.0 points", "", "", "0", "100"]


def test_one_run_is_behind_each_file_of_shipped_weights(results, tmp_path):
    first, second = make_run(tmp_path / "one", "cps"), make_run(tmp_path / "two", "cps", seed=1)
    for run in (first, second):
        results.results(run, shipped="models/model.pt")
    text = (tmp_path / "docs" / "README.md").read_text()
    assert (
        text.count("models/model.pt") == 1 and "| `models/model.pt` | `cps` | 1 | 70 | 2 | 2 | 0.500 ± 0.250 |" in text
    )
    with pytest.raises(SystemExit, match="one run"):
        results.results(first, second, shipped="models/model.pt")


def test_an_unfinished_run_is_refused_and_changes_nothing(results, tmp_path):
    good, bad = make_run(tmp_path / "one", "cps"), make_run(tmp_path / "two", "cps")
    (Path(bad) / "run.json").unlink()
    with pytest.raises(SystemExit, match="no finished run"):
        results.results(good, bad)
    assert not results.records.read("left_atrium")


def test_a_page_without_a_place_for_its_table_is_named(results, tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(SystemExit, match=r"README\.md: no lines <!-- table results -->"):
        results.results()


def test_a_shell_joins_the_wrapped_command_again(results):
    configs = [f"configs/a_config_with_a_rather_long_name/{number}.json" for number in range(6)]
    run = {"configs": configs, "seed": 1, "datalist": "datalist_4.json", "start": None, "options": {"size": "[1,2]"}}
    command = results.records.command(run)
    assert command.count("\n") > 2 and max(map(len, command.splitlines())) < 160
    shell = 'python() { for word in "$@"; do echo "$word"; done; }\n' + command
    words = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[4:6] == ["--config_file", "[" + ",".join(f"'{name}'" for name in configs) + "]"]
    assert words[6:] == ["--dataset_dir", "DIR", "--seed", "1", "--datalist_name", "datalist_4.json", "--size", "[1,2]"]
