# SPDX-License-Identifier: Apache-2.0
"""The ablation's table says what the runs say, and the script runs what is missing and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy.stats import wilcoxon

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(benchmark_scripts):
    return benchmark_scripts("ablation")


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    names = ("ablation hippocampus 8", "cell hippocampus 8", "cell hippocampus 2", "comparison hippocampus", "methods")
    places = "".join(f"<!-- table {name} -->\nold\n<!-- end of {name} -->\n" for name in names)
    path.write_text(f"Before.\n{places}After.\n")
    return path


BUDGET = ("--max_epochs", "50")  # of configs/datasets/hippocampus.json and the default's two parts


def finish(runs, name, seed, dice, *overrides, datalist="datalist_8.json", folder=None, start=None):
    """Leave what a finished run leaves: ``dice`` of each scan, the same for two classes."""
    cell = "hippocampus_" + Path(datalist).stem.rpartition("_")[2]
    folder = runs / cell / (folder or f"hippocampus_{name}_seed{seed}")
    folder.mkdir(parents=True)
    mean = {"mean": float(np.mean(dice)), "std": float(np.std(dice))}
    summary = dict.fromkeys(("dice", "jaccard", "hd95_mm", "hd95_pooled_mm", "asd_mm", "hd95_voxels"), mean)
    classes = {"anterior": {**summary, "empty_pred": 0}}
    files = {
        "config": {"dataset_name": "hippocampus", "datalist_name": datalist, "method_name": name},
        "model": {"iterations": 500, "seed": seed, "chosen": "last epoch"},
        "metrics": {"cases": len(dice), "networks": {"ensemble": {"mean_foreground": summary, "classes": classes}}},
        "run": {
            "command": ["__main__.py", "run", "training", "--config_file", "['x']", "--seed", str(seed), *overrides],
            "peak_memory_gib": 1.3,
            "device": "CPU, 1 threads",
            "versions": {},
            "finished": "today",
            "initial_weights": start and f"/x/{start}/model.pt",
        },
    }
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    (folder / "train_log.jsonl").write_text('{"epoch": 1, "seconds": 90}\n{"epoch": 2, "seconds": 30}\n')
    rows = ["case,network,class,name,dice,jaccard,hd95_mm,asd_mm"]
    for case, value in enumerate(dice):
        rows += [f"case{case},ensemble,{c},x,{value},0.5,2,1" for c in (1, 2)] + [f"case{case},a: net,1,x,0,0,0,0"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")


def part(page, table):
    return page.read_text().split(f"<!-- table {table} -->\n")[1].split(f"<!-- end of {table} -->")[0]


def table_row(page, title, table="cell hippocampus 8"):
    (line,) = [line for line in part(page, table).splitlines() if line.startswith(f"| `{title}` |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_cell_has_means_spreads_the_paired_test_and_the_gap(script, page, tmp_path, data):
    runs = tmp_path / "runs"
    generator = np.random.default_rng(0)
    control = {seed: generator.uniform(0.7, 0.8, 10) for seed in (0, 1, 2)}
    ours = {seed: control[seed] + generator.uniform(-0.01, 0.05, 10) for seed in (0, 1)}
    for seed, dice in control.items():
        finish(runs, "control", seed, dice, *BUDGET)
    for seed, dice in ours.items():
        finish(runs, "paper", seed, dice, *BUDGET)
    options = {"dataset_dir": data, "runs_dir": str(runs), "document": str(page)}
    script.ablation("hippocampus", seeds=3, rows="control", **options)
    script.ablation("hippocampus", seeds=2, rows="paper", **options)
    finish(runs, "control", 0, [0.9] * 10, *BUDGET, datalist="datalist_all.json")
    script.records.add("hippocampus", script.records.record(runs / "hippocampus_all" / "hippocampus_control_seed0")[1])
    runs.rename(tmp_path / "gone")  # the table lives on without the run folders
    script.ablation("hippocampus", seeds=0, dataset_dir=data, document=str(page))

    means = [dice.mean() for dice in control.values()]
    spread = f"{np.mean(means):.4f} ± {np.std(means, ddof=1):.4f}"
    row = table_row(page, "control")
    assert row[:2] == ["3", spread] and row[3:] == ["", "", "", "2 ± 0"]
    differences = np.mean([ours[seed] - control[seed] for seed in (0, 1)], axis=0)
    theirs, best = np.mean(means[:2]), 0.9
    assert table_row(page, "paper")[3:] == [
        f"{100 * differences.mean():+.2f} points",
        f"{wilcoxon(differences).pvalue:.2g}",
        f"{differences.mean() / (best - theirs):.0%}",
        "2 ± 0",
    ]
    text = part(page, "cell hippocampus 8")
    assert "Not run: `mean_teacher_copy_paste`" in text and "`uamt`" in text and "`control`," not in text
    assert "configs/methods/paper.json']\" \\\n  --dataset_dir DIR --seed N --max_epochs 50" in text
    row = table_row(page, "control", "methods")
    assert row == ["not run", "not run", f"{np.mean(means):.3f}", "0.900", *["not run"] * 6]
    assert page.read_text().startswith("Before.\n") and page.read_text().endswith("After.\n")
    assert part(page, "ablation hippocampus 8") == "old\n"


def test_only_what_is_missing_is_run_seed_0_of_all_rows_first(script, page, tmp_path, data, monkeypatch):
    runs = tmp_path / "runs"
    finish(runs, "control", 0, [0.7] * 8, *BUDGET)
    started = []

    def run(words, threads):
        name = Path(words[5].rpartition("/")[2].rstrip("']")).stem
        seed = int(words[words.index("--seed") + 1])
        started.append((name, seed))
        finish(runs, name, seed, [0.8] * 8, *BUDGET)

    monkeypatch.setattr(script, "run", run)
    rows = "control,uamt,cps"
    for _ in range(2):
        script.ablation("hippocampus", data, 2, rows, runs_dir=str(runs), document=str(page))
    assert started == [("uamt", 0), ("cps", 0), ("control", 1), ("cps", 1)]
    # seed 1 of the control, made up too, has 0.8
    assert table_row(page, "cps")[0] == "2" and table_row(page, "cps")[3] == "+5.00 points"


def test_rows_that_go_on_from_another_row_have_it_run_first(script, page, tmp_path, data, monkeypatch):
    runs = tmp_path / "runs"
    programs = []
    default = "hippocampus_mean_teacher_copy_paste_seed0"

    def run(words, threads):
        programs.append(words)
        if "selftrain" in words:
            end = {"folder": f"{default}_selftrain1", "start": default}
            finish(runs, "self_training", 0, [0.8] * 8, "--x=1", **end)
        elif "peers/nnunet.py" in words[0]:
            record = script.records.read("hippocampus")[0] | {"method": "nnunet", "start": None, "options": {}}
            script.records.add("hippocampus", record | {"command": "python benchmarks/peers/nnunet.py --seed 0"})
        else:
            name = Path(words[5].rpartition("/")[2].rstrip("']")).stem
            first = "hippocampus_contrastive_pretraining_seed0" if name == "voting" else None
            finish(runs, name, 0, [0.7] * 8, *BUDGET, start=first)
            (runs / "hippocampus_8" / f"hippocampus_{name}_seed0" / "model.pt").touch()

    monkeypatch.setattr(script, "run", run)
    rows = "self_training,nnunet,voting"
    for _ in range(2):
        script.ablation("hippocampus", data, 1, rows, runs_dir=str(runs), document=str(page))
    assert [words[0] if "peers" in words[0] else words[1] for words in programs] == [
        "monai.bundle",
        "scripts",
        "benchmarks/peers/nnunet.py",
        "monai.bundle",
        "monai.bundle",
    ]
    folder = runs / "hippocampus_8"
    assert programs[1] == ["-m", "scripts", "selftrain", str(folder / default)]
    assert programs[2][programs[2].index("--minutes") + 1] == "2.0"
    weights = folder / "hippocampus_contrastive_pretraining_seed0" / "model.pt"
    assert programs[4][-2:] == ["--initial_weights", str(weights)] and "--initial_weights" not in programs[3]
    assert table_row(page, "self_training")[-1] == "4"  # minutes, with those of the run that it goes on from
    text = part(page, "cell hippocampus 8")
    assert "python -m scripts selftrain runs/hippocampus_mean_teacher_copy_paste_seedN" in text
    assert "python benchmarks/peers/nnunet.py --seed N" in text


def test_a_table_never_mixes_runs_with_different_overrides(script, page, tmp_path, data):
    runs = tmp_path / "runs"
    finish(runs, "supervised", 0, [0.7] * 8, "--patch_size", "[32,64,32]")
    options = {"dataset_dir": data, "runs_dir": str(runs), "document": str(page), "rows": "supervised"}
    with pytest.raises(SystemExit, match=r"hippocampus_supervised_seed0 is a run with other overrides"):
        script.ablation("hippocampus", stem_stride=2, **options)
    assert not script.records.read("hippocampus")
    script.ablation("hippocampus", patch_size=[32, 64, 32], **options)
    old = "ablation hippocampus 8"
    assert table_row(page, "supervised", old)[0] == "1" and table_row(page, "uamt", old)[0] == "not run"
    assert "--patch_size '[32,64,32]'" in part(page, old) and part(page, "cell hippocampus 8") == "old\n"
    script.ablation("hippocampus", stem_stride=2, **options | {"seeds": 0})
    assert table_row(page, "supervised", old)[0] == "not run"


def test_fewer_steps_are_compared_in_a_table_and_a_file_of_their_own(script, page, tmp_path, data):
    runs = tmp_path / "runs"
    short, generator = ("--max_epochs", "20"), np.random.default_rng(0)
    dice = {(name, labels): generator.uniform(0.7, 0.8, 10) for name in ("control", "uamt", "cps") for labels in "28"}
    dice["uamt", "8"] += 0.3
    for (name, labels), values in dice.items():
        if (name, labels) != ("cps", "8"):
            cell = tmp_path / f"made_{labels}"
            finish(cell, name, 0, values, *short, datalist=f"datalist_{labels}.json")
    for labels in "28":
        folder = runs / f"hippocampus_20_epochs_{labels}"
        folder.parent.mkdir(exist_ok=True)
        (tmp_path / f"made_{labels}" / f"hippocampus_{labels}").rename(folder)
        rows = "control,uamt" + (",cps" if labels == "2" else "")
        options = {"dataset_dir": data, "runs_dir": str(runs), "document": str(page), "labels": labels}
        script.ablation("hippocampus", rows=rows, max_epochs=20, **options)
    text = part(page, "comparison hippocampus")
    rows = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["uamt", "control", "cps"]  # best mean first; what lacks a cell stands last
    row = table_row(page, "uamt", "comparison hippocampus")
    assert [row[0], row[5]] == [f"{dice['uamt', labels].mean():.3f}" for labels in "28"]
    assert row[7] == f"{100 * (dice['uamt', '8'] - dice['control', '8']).mean():+.2f} points"
    assert table_row(page, "cps", "comparison hippocampus")[5] == "not run"
    assert "Not run: `mean_teacher_copy_paste`" in text and "--datalist_name datalist_2.json --max_epochs 20" in text
    assert script.records.read("hippocampus") == [] and len(script.records.read("hippocampus_20_epochs")) == 5
    assert part(page, "cell hippocampus 8") == "old\n"


def test_each_number_of_labels_has_a_table_of_its_own(script, page, tmp_path, data):
    runs = tmp_path / "runs"
    words = ("--datalist_name", "datalist_2.json", *BUDGET)
    finish(runs, "control", 0, [0.7] * 8, *words, datalist="datalist_2.json")
    options = {"dataset_dir": data, "runs_dir": str(runs), "document": str(page)}
    script.ablation("hippocampus", labels=2, rows="control", **options)
    script.ablation("hippocampus", seeds=0, **options)
    assert part(page, "cell hippocampus 8") == "Not run.\n"
    assert table_row(page, "control", "cell hippocampus 2")[:2] == ["1", "0.7000"]
    assert "--datalist_name datalist_2.json" in part(page, "cell hippocampus 2")


def test_a_seed_without_the_scores_of_every_scan_is_left_out_of_the_paired_test(script):
    def run(*dice):
        return {"scans": {"dice": {f"case{number}": value for number, value in enumerate(dice)}} if dice else {}}

    assert script.compare({0: run(0.8, 0.9)}, {0: run()}) == ["", ""]
    assert script.compare({0: run(0.8, 0.9), 1: run()}, {0: run(0.7, 0.7), 1: run(0.1, 0.1)})[0] == "+15.00 points"


def test_two_volumes_of_a_patient_count_once_in_the_paired_test(script):
    gains = [0.05, -0.02, 0.04, 0.03, 0.01, 0.06, -0.015]
    names = [[f"patient{number:03d}_frame{frame:02d}" for frame in (1, 12)] for number in range(len(gains))]

    def run(scores):
        return {0: {"scans": {"dice": scores}}}

    ours = {name: 0.7 + gain for frames, gain in zip(names, gains, strict=True) for name in frames}
    theirs = dict.fromkeys(ours, 0.7)
    gain, p = script.compare(run(ours), run(theirs))
    assert gain == f"{100 * np.mean(gains):+.2f} points"
    assert p == f"{wilcoxon(gains).pvalue:.2g}"
    assert p != f"{wilcoxon(np.repeat(gains, 2)).pvalue:.2g}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "hippocampus", "rows": "cps,bpc"}, "bpc"),
        ({"dataset": "heart", "dataset_dir": "."}, "configs/datasets/heart.json"),
        ({"dataset": "hippocampus"}, "--dataset_dir"),
        ({"dataset": "left_atrium", "dataset_dir": "."}, "datalist_8.json"),
        ({"dataset": "left_atrium", "dataset_dir": "DATA"}, "table cell left_atrium 8"),
        ({"dataset": "left_atrium", "dataset_dir": "DATA", "max_epochs": 3}, "table comparison left_atrium"),
        (
            {"dataset": "hippocampus", "dataset_dir": "DATA", "max_epochs": 3, "rows": "nnunet"},
            "leave out --max_epochs",
        ),
        ({"dataset": "hippocampus", "dataset_dir": ".", "rows": "supervised"}, "supervised, but there are control"),
    ],
)
def test_what_cannot_be_is_named(script, page, data, arguments, message):
    if arguments.get("dataset_dir") == "DATA":
        arguments = {**arguments, "dataset_dir": data}
    with pytest.raises(SystemExit, match=message):
        script.ablation(document=str(page), **arguments)


def test_every_row_differs_from_the_default_in_its_configs_alone(script):
    for name, row in script.ROWS.items():
        if row.program:
            continue
        names = {"paper"} | {json.loads((ROOT / path).read_text()).get("method_name") for path in row.configs}
        assert name in names
        assert all((ROOT / path).exists() for path in row.configs)


CHAIN = ("rectification", "cross_pseudo", "entropy_filtered", "cosine", "paper")
TERMS = ("rectification_a", "cross_pseudo", "entropy_filtered", "cosine", "contrastive_a", "copy_paste_a")


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("rectification", TERMS[:1]),
        ("cross_pseudo", TERMS[:2]),
        ("entropy_filtered", TERMS[:3]),
        ("cosine", TERMS[:4]),
        ("paper", TERMS[:5]),
        ("average", TERMS[:5]),
        ("copy_paste", TERMS),
        ("dual_network_copy_paste", TERMS),
        ("mean_teacher_copy_paste", (TERMS[0], TERMS[5])),
        ("copy_paste_consistency", (*TERMS[:4], TERMS[5])),
        ("copy_paste_contrastive", (TERMS[0], *TERMS[4:])),
        ("without_rectification", TERMS[5:]),
        ("without_labeled_copy_paste", (TERMS[0], TERMS[5])),
    ],
)
def test_each_row_adds_the_term_it_is_named_after(script, name, terms):
    files = ["configs/train.json", "configs/datasets/hippocampus.json", "configs/recipes/cpu.json"]
    parser = ConfigParser()
    parser.read_config([str(ROOT / file) for file in [*files, *script.ROWS[name].configs]])
    parser["base_channels"] = 4
    parser["device"] = "cpu"
    parser["data"] = {}
    network, method = parser.get_parsed_content("network"), parser.get_parsed_content("method")
    image = torch.randn(2, 1, 32, 64, 32)
    label = torch.randint(0, 3, image.shape)
    losses = method(network, {"image": image, "label": label}, {"image": image}, progress=0.5)
    assert set(losses) & set(TERMS) == set(terms)
    trained_itself = (*CHAIN, "copy_paste")
    assert parser.get_parsed_content("use_average") == (name not in trained_itself)


@pytest.mark.slow
def test_a_row_is_trained(script, page, tmp_path, shared_data):
    cases = json.loads((shared_data / "hippocampus" / "datalist_8.json").read_text())
    for section, count in (("training", 2), ("unlabeled", 2), ("test", 1)):
        cases[section] = [
            {key: str(shared_data / "hippocampus" / path) for key, path in case.items()}
            for case in cases[section][:count]
        ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "datalist_8.json").write_text(json.dumps(cases))
    options = {"runs_dir": str(tmp_path / "runs"), "threads": 1, "document": str(page)}
    small = {"max_epochs": 1, "epoch_length": 2, "base_channels": 4}
    script.ablation("hippocampus", str(tmp_path / "data"), rows="copy_paste", **options, **small)
    assert table_row(page, "copy_paste", "ablation hippocampus 8")[0] == "1"
    assert "--max_epochs 1 --epoch_length 2" in page.read_text()
