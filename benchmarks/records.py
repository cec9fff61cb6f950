# SPDX-License-Identifier: Apache-2.0
"""Results of runs, one file a data set: ``benchmarks/results/DATASET.json``.

A record has what tells the run from others (method, datalist, start, seed, steps, options), its command, its cost, and
its scores: of each network over the scans, and of the ensemble on every scan, in the order of the file's ``cases``.
Records from before the scores of every scan were kept have the first alone, rounded.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from scripts.runs import Run  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
METRICS = ("dice", "jaccard", "hd95_mm", "asd_mm")
SUMMARIES = ("dice", "jaccard", "hd95_mm", "hd95_pooled_mm", "asd_mm", "hd95_voxels")
IDENTITY = ("method", "datalist", "start", "seed", "steps", "options")
PAGE_WIDTH = 130
PRETRAINED = "configs/recipes/pretrained.json"
# What a command has besides these makes a run another experiment; the last three say how it is computed, and not which.
OWN_OPTIONS = ("--config_file", "--dataset_dir", "--seed", "--runs_dir", "--datalist_name", "--initial_weights")
OWN_OPTIONS += ("--precision", "--num_workers", "--tensorboard")


def read(dataset: str) -> list[dict]:
    """All records of a data set; ``scans`` of each holds the ensemble's scores by case, by metric."""
    path = RESULTS / f"{dataset}.json"
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    for run in content["runs"]:
        run["scans"] = {
            metric: {c: v for c, v in zip(content["cases"], run.pop(metric), strict=True) if v is not None}
            for metric in METRICS
            if metric in run
        }
    return content["runs"]


def add(dataset: str, run: dict) -> None:
    """Add the record of a run to its data set's file, or replace the one of the same experiment and seed."""
    runs = [other for other in read(dataset) if _identity(other) != _identity(run)]
    write(dataset, [*runs, run])


def write(dataset: str, runs: list[dict]) -> None:
    """Write all records of a data set, sorted: one line for the run, its networks, and each metric of the scans."""
    cases = sorted({case for run in runs for scores in run["scans"].values() for case in scores})
    entries = []
    for run in sorted(runs, key=_identity):
        scans = {metric: [scores.get(case) for case in cases] for metric, scores in run["scans"].items()}
        head = {key: value for key, value in run.items() if key not in ("scans", "networks")}
        parts = [head, {"networks": run["networks"]}, *({metric: values} for metric, values in scans.items())]
        entries.append("{" + ",\n ".join(_json(part)[1:-1] for part in parts) + "}")
    text = f'{{"dataset": {_json(dataset)},\n"cases": {_json(cases)},\n"runs": [\n' + ",\n".join(entries) + "\n]}\n"
    RESULTS.mkdir(exist_ok=True)
    temporary = RESULTS / f"{dataset}.tmp"
    temporary.write_text(text)
    temporary.replace(RESULTS / f"{dataset}.json")


def record(folder: Path) -> tuple[str, dict]:
    """Data set and record of a finished run.

    Raises:
        SystemExit: when there is no finished run in the folder.
    """
    run = Run(folder)
    for file in (run.config_file, run.choice_file, run.record_file, run.summary_file):
        if not file.exists():
            raise SystemExit(f"{file}: missing, so {folder} is no finished run.")
    config, model, finished, metrics = run.config(), run.choice(), run.record(), run.summary()
    configs, options = parse_command(finished["command"])
    start = finished.get("initial_weights", config.get("initial_weights"))
    return config["dataset_name"], {
        "method": config["method_name"],
        "datalist": config["datalist_name"],
        "start": Path(start).parent.name if start else None,
        "seed": model["seed"],
        "steps": model["iterations"],
        "warm_up": config.get("warm_up", 0),
        "options": options,
        "configs": configs,
        "weights": model["chosen"],
        "test_scans": metrics["cases"],
        "minutes": round(run.training_seconds() / 60, 1),
        "peak_memory_gib": finished.get("peak_memory_gib"),
        "device": finished["device"],
        "versions": finished["versions"],
        "finished": finished.get("finished"),
        **scores(run),
    }


def scores(run: Run) -> dict[str, dict]:
    """``networks`` and ``scans`` of a record, of a folder with scores."""
    networks = run.summary()["networks"]
    return {
        "networks": {name: _summary(network) for name, network in networks.items()},
        "scans": _scans(run.scores_file),
    }


def parse_command(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Config files, and the options that make the run another experiment, of a run's command line."""
    given = arguments[arguments.index("training") + 1 :]
    words = iter([part for word in given for part in (word.split("=", 1) if word.startswith("--") else [word])])
    given = {name: "".join(value.split()) for name, value in zip(words, words, strict=True)}
    files = re.findall(r"[^\[\]',\s]+", given.get("--config_file", ""))
    return files, {name.removeprefix("--"): value for name, value in given.items() if name not in OWN_OPTIONS}


def command(run: dict, seed: object = None) -> str:
    """The command that repeats a run, wrapped for a page; DIR and runs/ stand for folders of whoever repeats it."""
    if "command" in run:  # of another program
        return run["command"] if seed is None else re.sub(r"(seed ?)\d+", rf"\g<1>{seed}", run["command"])
    lines = ['python -m monai.bundle run training --config_file "[']
    for number, name in enumerate(run["configs"], 1):
        part = f"'{name}'" + ("," if number < len(run["configs"]) else ']" \\')
        if len(lines[-1] + part) > PAGE_WIDTH:
            lines[-1] += "\\"  # within the quotes: the shell joins the lines again
            lines.append("")
        lines[-1] += part
    words = ["--dataset_dir", "DIR", "--seed", str(run["seed"] if seed is None else seed)]
    if run["datalist"] != "datalist_8.json":
        words += ["--datalist_name", run["datalist"]]
    if run["start"] and PRETRAINED not in run["configs"]:
        start = run["start"] if seed is None else re.sub(r"(?<=_seed)\d+", str(seed), run["start"])
        words += ["--initial_weights", Run(Path("runs", start)).model.as_posix()]
    words += [word for name, value in run["options"].items() for word in (f"--{name}", shlex.quote(value))]
    if "warm_up" not in run and run.get("method") == "mean_teacher_copy_paste" and PRETRAINED not in run["configs"]:
        # of a version whose methods had no supervised part, and another ramp-up
        words += ["--warm_up", "0"] + ([] if "method#ramp#length" in run["options"] else ["--ramp_length", "0.4"])
    return "\n".join([*lines, "  " + " ".join(words)])


def labels(run: dict) -> str:
    """How many scans were labelled, as the datalist's name says: ``datalist_8.json`` is 8."""
    return Path(run["datalist"]).stem.rpartition("_")[2]


def _identity(run: dict) -> str:
    return json.dumps([run[key] for key in IDENTITY], sort_keys=True)


def _summary(network: dict) -> dict:
    mean = network["mean_foreground"]
    summary = {name: _mean_and_std(mean[name]) for name in SUMMARIES}
    summary["empty"] = sum(scores["empty_pred"] for scores in network["classes"].values())
    summary["classes"] = {name: _mean_and_std(scores["dice"]) for name, scores in network["classes"].items()}
    return summary


def _mean_and_std(statistics: dict) -> list[float | None]:
    return [None if statistics[key] is None else round(statistics[key], 6) for key in ("mean", "std")]


def _scans(path: Path) -> dict[str, dict[str, float]]:
    """Scores of the ensemble on every scan, mean over foreground classes."""
    values = {metric: defaultdict(list) for metric in METRICS}
    with open(path, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["network"] == "ensemble":
                for metric, scores in values.items():
                    if not np.isnan(value := float(line[metric])):  # no value: class neither labelled nor predicted
                        scores[line["case"]].append(value)
    return {
        metric: {case: round(float(np.mean(classes)), 5) for case, classes in scores.items()}
        for metric, scores in values.items()
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
