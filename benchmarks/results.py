# SPDX-License-Identifier: Apache-2.0
"""Put finished runs into the table of docs/results.md, with the command of each.

    python benchmarks/results.py RUN_FOLDER [RUN_FOLDER ...] [--document docs/results.md]

The table stands between the lines ``<!-- runs -->`` and ``<!-- /runs -->`` of the document. A run that is in it already
(same data set, datalist, method, seed and number of steps) is replaced, the others stay, so that run folders need not
be kept. Everything in it is read from the run folders: nothing is typed by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import fire

BEGIN, END = "<!-- runs -->\n", "<!-- /runs -->\n"
HEADER = (
    "| network | Dice | Jaccard | HD95 (mm) | HD95, directions pooled (mm) | ASD (mm) | HD95 (voxels) "
    "| empty predictions |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
OVERVIEW = (
    "Ensemble of both networks, mean over foreground classes (*from*: the run whose weights a run started from; steps "
    "and minutes are without that run's):\n\n"
    "| data set | datalist | method | seed | steps | minutes | Dice | Jaccard | HD95 (mm) | ASD (mm) |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


def write_results(*runs: str, document: str = "docs/results.md") -> None:
    """Add these run folders to the table in ``document``, or replace their rows.

    Raises:
        SystemExit: when no folder is named or one is no finished run, or the document has no place for the table.
    """
    if not runs:
        raise SystemExit("Name the folders of the runs to put into the table.")
    path = Path(document)
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{path}: no lines {BEGIN.strip()} and {END.strip()} between which the table goes.")
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    entries = _entries(table) | {_identity(row): (row, section) for row, section in map(_entry, map(Path, runs))}
    data_sets = list(dict.fromkeys(data_set for data_set, *_ in entries))
    entries = [entries[identity] for identity in sorted(entries, key=lambda identity: data_sets.index(identity[0]))]
    rows, sections = ("".join(parts) for parts in zip(*entries, strict=True))
    path.write_text(before + BEGIN + OVERVIEW + rows + "\n" + sections + END + after)


def _entries(table: str) -> dict[tuple[str, ...], tuple[str, str]]:
    """What the table holds already: row and section of each run, by what tells the run from others."""
    overview, *sections = re.split(r"^(?=### )", table, flags=re.MULTILINE)
    rows = [line for line in overview.splitlines(keepends=True) if line.startswith("| ")][1:]
    return {_identity(row): (row, section) for row, section in zip(rows, sections, strict=True)}


def _identity(row: str) -> tuple[str, ...]:
    """Data set, datalist, method, seed and steps."""
    return tuple(row.split(" | ")[:5])


def _read(run: Path) -> tuple[dict, dict, dict, dict, float]:
    """Config, choice of the model, record of the run, scores, and minutes of training."""
    try:
        config, model, record, metrics = (
            json.loads((run / name).read_text()) for name in ("config.json", "model.json", "run.json", "metrics.json")
        )
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename}: missing, so {run} is no finished run.") from error
    epochs = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return config, model, record, metrics, sum(epoch.get("seconds", 0) for epoch in epochs) / 60


def _entry(run: Path) -> tuple[str, str]:
    """Row of the overview, and section, of a run."""
    config, model, record, metrics, minutes = _read(run)
    mean = metrics["networks"]["ensemble"]["mean_foreground"]
    digits = {"dice": 3, "jaccard": 3, "hd95_mm": 2, "asd_mm": 2}
    scores = [_value(mean, name, count) for name, count in digits.items()]
    cells = [config["dataset_name"], config["datalist_name"], _method(config, record)]
    cells += [model["seed"], model["iterations"], f"{minutes:.0f}", *scores]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n", _section(run)


def _method(config: dict, record: dict) -> str:
    start = record.get("initial_weights", config.get("initial_weights"))
    return config["method_name"] + (f", from {Path(start).parent.name}" if start else "")


def _section(run: Path) -> str:
    config, model, record, metrics, minutes = _read(run)
    memory = f"{record['peak_memory_gib']} GiB" if "peak_memory_gib" in record else "not recorded"
    lines = [
        f"### {config['dataset_name']}, {_method(config, record)}, seed {model['seed']}\n\n",
        f"{metrics['cases']} test scans. {model['iterations']} steps in {minutes:.0f} min on {record['device']}; ",
        f"peak memory {memory}; weights: {model['chosen']}; torch {record['versions']['torch']}, ",
        f"monai {record['versions']['monai']}. Mean ± standard deviation over scans, mean over foreground classes.\n\n",
        f"`{_command(record['command'])}`\n\n",
        HEADER,
    ]
    lines += [_row(name, scores) for name, scores in metrics["networks"].items()]
    if len(metrics["labels"]) > 1:
        classes = metrics["networks"]["ensemble"]["classes"]
        parts = ", ".join(f"{name} {_value(scores, 'dice', 3)}" for name, scores in classes.items())
        lines.append(f"\nEnsemble Dice by class: {parts}.\n")
    return "".join(lines) + "\n"


def _row(title: str, network: dict) -> str:
    mean = network["mean_foreground"]
    empty = sum(scores["empty_pred"] for scores in network["classes"].values())
    values = [_value(mean, "dice", 3), _value(mean, "jaccard", 3)]
    values += [_value(mean, name, 2) for name in ("hd95_mm", "hd95_pooled_mm", "asd_mm", "hd95_voxels")]
    return f"| {title} | " + " | ".join(values) + f" | {empty} |\n"


def _value(scores: dict, name: str, digits: int) -> str:
    return f"{scores[name]['mean']:.{digits}f} ± {scores[name]['std']:.{digits}f}"


def _command(arguments: list[str]) -> str:
    """The run's command without the folders of the machine it ran on."""
    words = ["python", "-m", "monai.bundle", *arguments[1:]]
    for option, shown in (("--dataset_dir", "DIR"), ("--runs_dir", None)):
        if option in words:
            at = words.index(option)
            words[at : at + 2] = [option, shown] if shown else []
    if "--initial_weights" in words:
        at = words.index("--initial_weights") + 1
        words[at] = "/".join(("runs", *Path(words[at]).parts[-2:]))
    return " ".join(word if re.fullmatch(r"[\w./:=-]+", word) else f'"{word}"' for word in words)


if __name__ == "__main__":
    fire.Fire(write_results)
