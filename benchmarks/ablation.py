# SPDX-License-Identifier: Apache-2.0
"""Measure what each part of the method is worth: run what is missing, resume what was cut off, write the table.

    python benchmarks/ablation.py hippocampus --dataset_dir DIR [--seeds 3] [--rows supervised,cps] [--runs_dir runs]
    python benchmarks/ablation.py left_atrium --dataset_dir DIR --train False     # only write the table

Every row is trained by ``monai.bundle run training`` with the same networks, augmentation and number of steps; the
table, with the command of each row, replaces what stands between ``<!-- ablation DATASET -->`` and
``<!-- /ablation DATASET -->`` in docs/ablation.md. Nothing in it is typed by hand, and what was not run is listed as
not run. What a finished run found is kept, scan by scan, in ``benchmarks/ablation/results/DATASET_METHOD_seedN.json``,
with the values of the config that were overridden for it: a table holds runs with the same ones. Delete that file to
have the run repeated.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import fire
import numpy as np
from scipy.stats import wilcoxon

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "ablation" / "results"
OWN_OPTIONS = ("--config_file", "--dataset_dir", "--seed", "--runs_dir")
COPY_PASTE = "configs/methods/dual_network_copy_paste.json"


class Row(NamedTuple):
    """One row of the table: what it is called, the configs that make it, and the name of the method in them."""

    title: str
    configs: tuple[str, ...] = ()
    always: bool = False  # one of the rows that are run with every seed


ROWS = {
    "supervised": Row("supervised only", ("configs/methods/supervised.json",), True),
    "rectification": Row("+ disagreement rectification", ("benchmarks/ablation/rectification.json",)),
    "cross_pseudo": Row("+ KL-weighted cross pseudo supervision", ("benchmarks/ablation/cross_pseudo.json",)),
    "entropy_filtered": Row("+ entropy-filtered supervision", ("benchmarks/ablation/entropy_filtered.json",)),
    "cosine": Row("+ cosine consistency", ("benchmarks/ablation/cosine.json",)),
    "dual_network": Row("+ prototype contrastive term = **dual_network**", (), True),
    "average": Row("dual_network, moving average of the weights", ("benchmarks/ablation/average.json",)),
    "copy_paste": Row("dual_network, copy-paste", (COPY_PASTE, "benchmarks/ablation/copy_paste.json")),
    "dual_network_copy_paste": Row("dual_network, copy-paste and moving average", (COPY_PASTE,), True),
    "mean_teacher_copy_paste": Row(
        "copy-paste and moving average alone = **mean_teacher_copy_paste**",
        ("configs/methods/mean_teacher_copy_paste.json",),
        True,
    ),
    "copy_paste_consistency": Row(
        "copy-paste and moving average, + cross consistency enhancement",
        (COPY_PASTE, "benchmarks/ablation/copy_paste_consistency.json"),
        True,
    ),
    "copy_paste_contrastive": Row(
        "copy-paste and moving average, + prototype contrastive term",
        (COPY_PASTE, "benchmarks/ablation/copy_paste_contrastive.json"),
        True,
    ),
    "as_released": Row("as_released", ("configs/methods/as_released.json",), True),
    "cps": Row("cps", ("configs/methods/cps.json",), True),
    "mean_teacher": Row("mean_teacher", ("configs/methods/mean_teacher.json",)),
    "uamt": Row("uamt", ("configs/methods/uamt.json",)),
    "mcf": Row("mcf", ("configs/methods/mcf.json",)),
    "bcp": Row("bcp", ("configs/methods/bcp.json",)),
}


def ablation(
    dataset: str,
    dataset_dir: str | None = None,
    seeds: int = 1,
    rows: str | tuple[str, ...] | None = None,
    runs_dir: str = "runs",
    recipe: str = "cpu",
    threads: int | None = None,
    train: bool = True,
    document: str = "docs/ablation.md",
    **overrides: object,
) -> None:
    """Train the rows that are missing, one after the other, and write the table after each.

    Args:
        dataset: name of a config in configs/datasets.
        dataset_dir: folder of its datalist; needed to train.
        seeds: seeds 0 to this number less one for supervised, cps, dual_network, as_released and the rows with
            copy-paste and moving average; seed 0 alone for the others.
        rows: names of rows, with commas between them; default: all.
        runs_dir: where the run folders are.
        recipe: name of a config in configs/recipes.
        threads: threads of PyTorch; default: its own choice.
        train: False: write the table of what there is, and train nothing.
        document: where the table goes; its lines ``<!-- ablation DATASET -->`` must be there.
        overrides: further values of the config, the same for every row: ``--max_epochs 20``.

    Raises:
        SystemExit: when an argument names nothing that exists, a run fails, or there is a result of the run with other
            overrides.
    """
    names = list(ROWS) if rows is None else rows.split(",") if isinstance(rows, str) else list(rows)
    if unknown := [name for name in names if name not in ROWS]:
        raise SystemExit(f"--rows names {', '.join(unknown)}, but there are {', '.join(ROWS)}.")
    if train and dataset_dir is None:
        raise SystemExit("Give --dataset_dir, or --train False to write the table of what there is.")
    configs = ["configs/train.json", f"configs/datasets/{dataset}.json", f"configs/recipes/{recipe}.json"]
    if missing := [name for name in configs if not (ROOT / name).exists()]:
        raise SystemExit(f"{', '.join(missing)}: no such file.")
    page = Path(document) if Path(document).is_absolute() else ROOT / document
    extra = [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
    runs = Path(runs_dir).resolve()
    write_table(page, dataset, configs, extra)
    # all rows with seed 0 before any with seed 1: a table cut short by time compares every method
    for seed in range(seeds if train else 0):
        for name in names:
            result = RESULTS / f"{dataset}_{name}_seed{seed}.json"
            if (seed > 0 and not ROWS[name].always) or seed in finished(dataset, name, extra):
                continue
            if result.exists():
                raise SystemExit(f"{result} is of a run with other overrides. Give the same ones, or delete it first.")
            folder = runs / f"{dataset}_{name}_seed{seed}"
            if not (folder / "run.json").exists():
                data = str(Path(dataset_dir).resolve())
                options = ["--dataset_dir", data, "--seed", str(seed), "--runs_dir", str(runs), *extra]
                run(configs + list(ROWS[name].configs), options, threads)
            if overrides_of(folder) != {
                word: "".join(value.split()) for word, value in zip(extra[::2], extra[1::2], strict=True)
            }:
                raise SystemExit(f"{folder} is a run with other overrides. Give another --runs_dir, or move it away.")
            RESULTS.mkdir(exist_ok=True)
            result.write_text(json.dumps(summary(folder) | {"overrides": extra}, indent=1) + "\n")
            write_table(page, dataset, configs, extra)


def run(configs: list[str], options: list[str], threads: int | None) -> None:
    """One training, in a process of its own, so that each has its own memory and random state."""
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", repr(configs), *options]
    print("\n" + shlex.join(command), flush=True)
    environment = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode != 0:
        raise SystemExit("The run above failed; what was finished before it is in the table.")


def overrides_of(folder: Path) -> dict[str, str]:
    """The overrides of a run's command, without those that every row has and without spaces in the values."""
    command = json.loads((folder / "run.json").read_text())["command"]
    words = iter(command[command.index("training") + 1 :])
    options = {name: "".join(value.split()) for name, value in zip(words, words, strict=True)}
    return {name: value for name, value in options.items() if name not in OWN_OPTIONS}


def summary(folder: Path) -> dict:
    """What a finished run found: scores of the ensemble, mean over foreground classes, of every scan; and its cost."""
    metrics, model, record = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "model", "run"))
    cases = defaultdict(lambda: defaultdict(list))
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["network"] == "ensemble":
                for key, _ in METRICS:
                    cases[line["case"]][key].append(float(line[key]))
    epochs = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return {
        "scores": {key: metrics["networks"]["ensemble"]["mean_foreground"][key]["mean"] for key, _ in METRICS},
        "steps": model["iterations"],
        "minutes": round(sum(epoch.get("seconds", 0) for epoch in epochs) / 60, 1),
        "peak_memory_gib": record["peak_memory_gib"],
        "device": record["device"],
        "versions": record["versions"],
        "finished": record["finished"],
        "cases": {
            case: {key: round(float(np.mean(values)), 5) for key, values in scores.items()}
            for case, scores in cases.items()
        },
    }


def write_table(page: Path, dataset: str, configs: list[str], extra: list[str]) -> None:
    """Replace the table of this data set in the page.

    Raises:
        SystemExit: when the page has no place for it.
    """
    begin, end = f"<!-- ablation {dataset} -->\n", f"<!-- /ablation {dataset} -->\n"
    text = page.read_text() if page.exists() else ""
    if begin not in text or end not in text:
        raise SystemExit(f"{page}: no lines {begin.strip()} and {end.strip()} between which the table goes.")
    results = {name: finished(dataset, name, extra) for name in ROWS}
    table = table_of(results) + commands_of(results, configs, extra)
    before, after = text.split(begin)[0], text.split(end)[1]
    temporary = page.with_suffix(".tmp")
    temporary.write_text(before + begin + table + end + after)
    temporary.replace(page)


def finished(dataset: str, name: str, overrides: list[str]) -> dict[int, dict]:
    """Summaries of the finished runs of a row with these overrides, by seed."""
    found = {path.stem.rpartition("_seed")[2]: path for path in RESULTS.glob(f"{dataset}_{name}_seed*.json")}
    runs = {int(seed): json.loads(path.read_text()) for seed, path in sorted(found.items()) if seed.isdigit()}
    return {seed: run for seed, run in runs.items() if run["overrides"] == overrides}


def table_of(results: dict[str, dict[int, dict]]) -> str:
    lines = [
        "| method | seeds | Dice | Jaccard | HD95 (mm) | ASD (mm) | minus supervised | p | minutes | GiB |\n",
        "|---|---|---|---|---|---|---|---|---|---|\n",
    ]
    for name, row in ROWS.items():
        if not results[name]:
            lines.append(f"| {row.title} | not run |" + " |" * 8 + "\n")
            continue
        runs = list(results[name].values())
        cells = [row.title, str(len(runs))]
        cells += [spread([run["scores"][key] for run in runs], digits) for key, digits in METRICS]
        cells += compare(results[name], results["supervised"]) if name != "supervised" else ["", ""]
        cells += [spread([run[key] for run in runs], digits) for key, digits in COSTS]
        lines.append("| " + " | ".join(cells) + " |\n")
    runs = [run for by_seed in results.values() for run in by_seed.values()]
    budget = f"Steps: {join(run['steps'] for run in runs)}; on {join(run['device'] for run in runs)}. " if runs else ""
    return "".join(lines) + "\n" + budget + EXPLANATION


METRICS = (("dice", 4), ("jaccard", 4), ("hd95_mm", 2), ("asd_mm", 2))
COSTS = (("minutes", 0), ("peak_memory_gib", 1))
EXPLANATION = (
    "Ensemble of both networks, last epoch, mean over foreground classes and test scans; with several seeds, mean ± "
    "standard deviation over seeds. *Minus supervised*: mean difference of Dice, scan by scan, each scan averaged "
    "over the seeds that both have; *p*: Wilcoxon's signed-rank test of it, two-sided, uncorrected.\n\n"
)


def join(values: Iterable) -> str:
    return ", ".join(str(value) for value in sorted(set(values), key=str))


def spread(values: list[float], digits: int) -> str:
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def compare(method: dict[int, dict], baseline: dict[int, dict]) -> list[str]:
    """Mean difference over the scans, and the p-value of the paired test, from the seeds that both have."""
    seeds = sorted(method.keys() & baseline.keys())
    if not seeds:
        return ["", ""]
    pairs = [(method[seed]["cases"], baseline[seed]["cases"]) for seed in seeds]
    cases = sorted(set.intersection(*(set(scores) for pair in pairs for scores in pair)))
    differences = [np.mean([ours[case]["dice"] - theirs[case]["dice"] for ours, theirs in pairs]) for case in cases]
    p = wilcoxon(differences).pvalue if len(cases) > 5 and np.any(differences) else float("nan")
    return [f"{100 * np.mean(differences):+.2f} points", f"{p:.2g}"]


def commands_of(results: dict[str, dict[int, dict]], configs: list[str], extra: list[str]) -> str:
    """The command of each row, without the folders of the machine it ran on."""
    lines = ["<details><summary>Commands</summary>\n\n"]
    for name, row in ROWS.items():
        files = ",".join(f"'{config}'" for config in [*configs, *row.configs])
        seeds = f"; run with seeds {join(results[name])}" if results[name] else "; not run"
        command = f'python -m monai.bundle run training --config_file "[{files}]" --dataset_dir DIR --seed N'
        command = " ".join([command, *map(shlex.quote, extra)])
        lines.append(f"- {row.title}: `{command}`{seeds}\n")
    return "".join(lines) + "\n</details>\n"


if __name__ == "__main__":
    fire.Fire(ablation)
