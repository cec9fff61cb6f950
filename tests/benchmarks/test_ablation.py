# SPDX-License-Identifier: Apache-2.0
"""The ablation's table says what the runs say, and the script runs what is missing and nothing else."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy.stats import wilcoxon

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(tmp_path):
    spec = importlib.util.spec_from_file_location("ablation", ROOT / "benchmarks" / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.RESULTS = tmp_path / "results"
    return module


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("Before.\n<!-- ablation hippocampus -->\nold\n<!-- /ablation hippocampus -->\nAfter.\n")
    return path


def finish(runs, name, seed, dice, *overrides):
    """Leave what a finished run leaves: ``dice`` of each scan, the same for two classes."""
    folder = runs / f"hippocampus_{name}_seed{seed}"
    folder.mkdir(parents=True)
    mean = {key: {"mean": float(np.mean(dice))} for key in ("dice", "jaccard", "hd95_mm", "asd_mm")}
    (folder / "metrics.json").write_text(json.dumps({"networks": {"ensemble": {"mean_foreground": mean}}}))
    (folder / "model.json").write_text(json.dumps({"iterations": 500}))
    command = ["__main__.py", "run", "training", "--config_file", "x", "--seed", str(seed), *overrides]
    record = {
        "command": command,
        "peak_memory_gib": 1.3,
        "device": "CPU, 1 threads",
        "versions": {},
        "finished": "today",
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "train_log.jsonl").write_text('{"seconds": 90}\n{"seconds": 30}\n')
    rows = ["case,network,class,name,dice,jaccard,hd95_mm,asd_mm"]
    for case, value in enumerate(dice):
        rows += [f"case{case},ensemble,{c},x,{value},0.5,2,1" for c in (1, 2)] + [f"case{case},a: net,1,x,0,0,0,0"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")


def table_row(page, title):
    (line,) = [line for line in page.read_text().splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_table_has_means_spreads_and_the_paired_test(script, page, tmp_path):
    runs = tmp_path / "runs"
    generator = np.random.default_rng(0)
    supervised = {seed: generator.uniform(0.7, 0.8, 10) for seed in (0, 1, 2)}
    ours = {seed: supervised[seed] + generator.uniform(-0.01, 0.05, 10) for seed in (0, 1)}
    for seed, dice in supervised.items():
        finish(runs, "supervised", seed, dice)
    for seed, dice in ours.items():
        finish(runs, "dual_network", seed, dice)
    options = {"dataset_dir": str(tmp_path), "runs_dir": str(runs), "document": str(page)}
    script.ablation("hippocampus", seeds=3, rows="supervised", **options)
    script.ablation("hippocampus", seeds=2, rows="dual_network", **options)
    runs.rename(tmp_path / "gone")  # the table lives on without the run folders
    script.ablation("hippocampus", train=False, document=str(page))

    means = [dice.mean() for dice in supervised.values()]
    row = table_row(page, "supervised only")
    assert row[:2] == ["3", f"{np.mean(means):.4f} ± {np.std(means, ddof=1):.4f}"]
    row = table_row(page, "+ prototype contrastive term = **dual_network**")
    differences = np.mean([ours[seed] - supervised[seed] for seed in (0, 1)], axis=0)
    assert row[5:] == [
        f"{100 * differences.mean():+.2f} points",
        f"{wilcoxon(differences).pvalue:.2g}",
        "2 ± 0",
        "1.3 ± 0.0",
    ]
    assert table_row(page, "uamt")[0] == "not run"
    text = page.read_text()
    assert text.startswith("Before.\n") and text.endswith("After.\n") and "old" not in text
    assert "configs/methods/uamt.json" in text


def test_only_what_is_missing_is_run_seed_0_of_all_rows_first(script, page, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    finish(runs, "supervised", 0, [0.7] * 8)
    started = []

    def run(configs, options, threads):
        name = Path(configs[-1]).stem
        seed = int(options[options.index("--seed") + 1])
        started.append((name, seed))
        finish(runs, name, seed, [0.8] * 8)

    monkeypatch.setattr(script, "run", run)
    rows = "supervised,uamt,cps"
    for _ in range(2):
        script.ablation("hippocampus", str(tmp_path), 2, rows, runs_dir=str(runs), document=str(page))
    assert started == [("uamt", 0), ("cps", 0), ("supervised", 1), ("cps", 1)]
    assert (
        table_row(page, "cps")[0] == "2" and table_row(page, "cps")[5] == "+5.00 points"
    )  # seed 1 of supervised, made up too, has 0.8


def test_a_table_never_mixes_runs_with_different_overrides(script, page, tmp_path):
    runs = tmp_path / "runs"
    finish(runs, "supervised", 0, [0.7] * 8, "--patch_size", "[32,64,32]")
    options = {"dataset_dir": str(tmp_path), "runs_dir": str(runs), "document": str(page), "rows": "supervised"}
    with pytest.raises(SystemExit, match=r"hippocampus_supervised_seed0 is a run with other overrides"):
        script.ablation("hippocampus", **options)
    assert not list(script.RESULTS.glob("*"))
    script.ablation("hippocampus", patch_size=[32, 64, 32], **options)
    assert table_row(page, "supervised only")[0] == "1"
    assert "--patch_size '[32, 64, 32]'" in page.read_text()
    with pytest.raises(SystemExit, match=r"hippocampus_supervised_seed0\.json is of a run with other overrides"):
        script.ablation("hippocampus", **options)
    assert table_row(page, "supervised only")[0] == "not run"
    script.ablation("hippocampus", patch_size=[32, 64, 32], **options)
    assert table_row(page, "supervised only")[0] == "1"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dataset": "hippocampus", "rows": "cps,bpc", "train": False}, "bpc"),
        ({"dataset": "heart", "train": False}, "configs/datasets/heart.json"),
        ({"dataset": "hippocampus"}, "--dataset_dir"),
        ({"dataset": "left_atrium", "train": False}, "ablation left_atrium"),
    ],
)
def test_what_cannot_be_is_named(script, page, arguments, message):
    with pytest.raises(SystemExit, match=message):
        script.ablation(document=str(page), **arguments)


def test_every_row_differs_from_the_default_in_its_configs_alone(script):
    for name, row in script.ROWS.items():
        names = {"dual_network"} | {json.loads((ROOT / path).read_text()).get("method_name") for path in row.configs}
        assert name in names
        assert all((ROOT / path).exists() for path in row.configs)


CHAIN = ("rectification", "cross_pseudo", "entropy_filtered", "cosine", "dual_network")
TERMS = ("rectification_a", "cross_pseudo", "entropy_filtered", "cosine", "contrastive_a", "copy_paste_a")


@pytest.mark.parametrize(
    "name, terms",
    [
        ("rectification", TERMS[:1]),
        ("cross_pseudo", TERMS[:2]),
        ("entropy_filtered", TERMS[:3]),
        ("cosine", TERMS[:4]),
        ("dual_network", TERMS[:5]),
        ("average", TERMS[:5]),
        ("copy_paste", TERMS),
        ("dual_network_copy_paste", TERMS),
        ("mean_teacher_copy_paste", (TERMS[0], TERMS[5])),
        ("copy_paste_consistency", (*TERMS[:4], TERMS[5])),
        ("copy_paste_contrastive", (TERMS[0], *TERMS[4:])),
    ],
)
def test_each_row_adds_the_term_it_is_named_after(script, name, terms):
    files = ["configs/train.json", "configs/datasets/hippocampus.json", "configs/recipes/cpu.json"]
    parser = ConfigParser()
    parser.read_config([str(ROOT / file) for file in [*files, *script.ROWS[name].configs]])
    parser["base_channels"] = 4
    parser["device"] = "cpu"
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
    assert table_row(page, "dual_network, copy-paste")[0] == "1"
    assert "--max_epochs 1 --epoch_length 2" in page.read_text()
