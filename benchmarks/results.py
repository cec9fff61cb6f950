# SPDX-License-Identifier: Apache-2.0
"""Write every table of results in the pages from the result files, after adding finished runs to these.

    python benchmarks/results.py [RUN_FOLDER ...] [--shipped models/model.pt]

Nothing in the tables is typed by hand; a test compares the pages with the files. A run that is there already (same data
set, datalist, method, start, seed, steps and options) is replaced.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import ablation
import fire
import numpy as np
import records
from ablation import join, means, spread
from pages import with_table
from records import ROOT
from rows import CELLS, COMPARED

# What is compared at which numbers of labels; a cell without runs is listed as not run.
PLANNED = {"left_atrium": ("2", "4", "8"), "hippocampus": ("2", "4", "8"), "acdc": ("3", "7")}
NAMES = {"left_atrium": "left atrium, {} scans", "hippocampus": "hippocampus, {} scans", "acdc": "ACDC, {} patients"}
# Three digits of Dice: runs from before the scores of every scan were kept have no more.
DIGITS = {"dice": 3, "jaccard": 3, "hd95_mm": 2, "asd_mm": 2}
UNLABELED = "mean_teacher_copy_paste"
FIRST_PART = "ensemble, supervised part"
ABLATIONS = {
    ("hippocampus", "8"): {"stem_stride": "2", "patch_size": "[32,64,32]"},
    ("left_atrium", "8"): {},
}
SHORT = {dataset: {"max_epochs": "20"} for dataset in COMPARED}
# Options that the recipe in two parts needs; a run with others is a row of an ablation or of the lab book.
RECIPE_OPTIONS = {"max_epochs", "use_average", "method#ramp#length"}


def results(*runs: str, shipped: str | None = None) -> None:
    """Add these finished runs to the result files, then write all tables.

    Args:
        runs: folders of finished runs.
        shipped: file of the shipped weights that were made from the run, for one run.

    Raises:
        SystemExit: when a folder holds no finished run, or a page has no place for its table.
    """
    if shipped is not None and len(runs) != 1:
        raise SystemExit("--shipped names the weights of one run: give one run folder.")
    added = [records.record(Path(run)) for run in runs]
    for dataset, run in added:
        if shipped is not None:
            run["shipped"] = shipped
            # the weights that this file held before are no longer shipped
            others = [{k: v for k, v in other.items() if k != "shipped"} for other in records.read(dataset)]
            records.write(dataset, others)
        records.add(dataset, run)
    for path, text in pages().items():
        if path.read_text() != text:
            path.write_text(text)
            print(f"Wrote {path}")


def pages() -> dict[Path, str]:
    """The pages with tables of results, and what they have to say."""
    tables = {
        "README.md": {"results": unlabeled_table(only_run=True)},
        "docs/README.md": {"shipped": shipped_table()},
        "docs/results.md": {
            "results": unlabeled_table(only_run=False),
            **{f"runs {dataset}": runs_table(dataset) for dataset in PLANNED},
        },
        "docs/ablation.md": {
            "methods": ablation.overview(),
            **{f"comparison {dataset}": ablation.comparison(dataset, options) for dataset, options in SHORT.items()},
            **{
                f"cell {dataset} {labels}": ablation.cell_table(dataset, labels, ablation.cell_options(dataset))
                for dataset, counts in CELLS.items()
                for labels in counts
            },
            **{
                f"ablation {dataset} {labels}": ablation.table_of(dataset, f"datalist_{labels}.json", options)
                for (dataset, labels), options in ABLATIONS.items()
            },
        },
        "docs/lab/runs.md": {"networks": networks_tables()},
    }
    texts = {}
    for name, named in tables.items():
        path = ROOT / name
        texts[path] = path.read_text()
        for table, text in named.items():
            texts[path] = with_table(texts[path], table, text, name)
    return texts


def unlabeled_table(only_run: bool) -> str:
    """What the unlabelled scans are worth: start, control, method, and the control with all labels."""
    lines = [
        "| labelled | start | control | unlabelled scans, too | these add | control, all labels | gap closed | seeds "
        "| minutes |\n|---|---|---|---|---|---|---|---|---|\n"
    ]
    for dataset, counts in PLANNED.items():
        for count in counts:
            cells = _unlabeled_cells(records.read(dataset), count, ablation.cell_options(dataset))
            if any(cells) or not only_run:
                title = NAMES[dataset].format(count)
                lines.append(f"| {title} | " + " | ".join(cell or "not run" for cell in cells) + " |\n")
    return "".join(lines)


def _unlabeled_cells(runs: list[dict], count: str, budget: dict[str, str]) -> list[str]:
    """Of runs with both parts where there are some, else of two runs one after the other, as until version 0.8.

    Where the recipe's budget has changed, runs with that of before stay on record and do not count any more.
    """
    pool, control_method = [run for run in runs if run["start"] is None and FIRST_PART in run["networks"]], "control"
    ours = _of(pool, UNLABELED, count)
    ours = [run for run in ours if run["options"] == budget] or ours
    in_one = bool(ours)
    if not in_one:
        pool, control_method = [run for run in runs if run["start"]], "rectification"
        ours = _of(pool, UNLABELED, count)
    seeds, steps = {run["seed"] for run in ours}, {run["steps"] for run in ours}

    def same(found: list[dict]) -> list[dict]:
        return [run for run in found if not ours or (run["seed"] in seeds and run["steps"] in steps)]

    control, bound = (same(_of(pool, control_method, labels)) for labels in (count, "all"))
    start = [
        run
        for run in _of(runs, "supervised", count)
        if (run["start"], run["options"]) == (None, {}) and (not ours or run["seed"] in seeds)
    ]
    groups = [ours if in_one else start, control, ours, bound if ours or control else []]
    networks = [FIRST_PART if in_one else "ensemble", *["ensemble"] * 3]
    dice = [
        np.mean([run["networks"][network]["dice"][0] for run in group]) if group else None
        for group, network in zip(groups, networks, strict=True)
    ]
    texts = ["" if value is None else f"{value:.3f}" for value in dice]
    added = closed = minutes = ""
    if control and ours:
        both = [run for run in ours if run["seed"] in {other["seed"] for other in control}]
        gain = np.mean([run["networks"]["ensemble"]["dice"][0] for run in both]) - dice[1]
        added = f"{100 * gain:+.1f} points"
        if bound:
            closed = f"{gain / (dice[3] - dice[1]):.0%}"
    if ours and (in_one or start):
        parts = (ours,) if in_one else (start, ours)
        minutes = f"{sum(np.mean([run['minutes'] for run in group]) for group in parts):.0f}"
    return [*texts[:3], added, texts[3], closed, join(seeds), minutes]


def _of(runs: list[dict], method: str, count: str) -> list[dict]:
    return [run for run in runs if run["method"] == method and records.labels(run) == count]


def runs_table(dataset: str) -> str:
    """All runs of the recipe on a data set, grouped over seeds, with the command of each group."""
    groups = defaultdict(list)
    for run in records.read(dataset):
        if run["options"].keys() <= RECIPE_OPTIONS:
            labels = records.labels(run)
            size = int(labels) if labels.isdigit() else float("inf")
            options = tuple(sorted(run["options"].items()))
            groups[size, _start(dataset, run), run["steps"], run["method"], options].append(run)
    if not groups:
        return "Not run.\n"
    lines = [
        "| labels | method | start | seeds | steps | Dice | Jaccard | HD95 (mm) | ASD (mm) | minutes | GiB |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n"
    ]
    commands = []
    for (_, start, steps, method, _), runs in sorted(groups.items()):
        cells = [records.labels(runs[0]), f"`{method}`", start, join(run["seed"] for run in runs), str(steps)]
        cells += [*means(runs, DIGITS), spread([run["minutes"] for run in runs], 0)]
        cells += [spread([run["peak_memory_gib"] for run in runs], 1)]
        lines.append("| " + " | ".join(cells) + " |\n")
        commands.append(f"# {method}, {steps} steps\n{records.command(runs[0], 'N')}\n")
    body = "".join(lines) + "\n<details><summary>Commands</summary>\n\n```bash\n" + "".join(commands)
    return body + "```\n\n</details>\n"


def _start(dataset: str, run: dict) -> str:
    return "" if run["start"] is None else re.sub(rf"^{dataset}_|_seed\d+$", "", run["start"])


def shipped_table() -> str:
    """Scores of the shipped weights, mean and standard deviation over the test scans."""
    lines = [
        "| weights | method | seed | steps | minutes | test scans | Dice | HD95 (mm) | ASD (mm) |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    ]
    for dataset in PLANNED:
        for run in records.read(dataset):
            if "shipped" in run:
                ensemble = run["networks"]["ensemble"]
                cells = [f"`{run['shipped']}`", f"`{run['method']}`", run["seed"], run["steps"]]
                cells += [f"{run['minutes']:.0f}", run["test_scans"], _over_scans(ensemble["dice"], 3)]
                cells += [_over_scans(ensemble[name], 1) for name in ("hd95_mm", "asd_mm")]
                lines.append("| " + " | ".join(map(str, cells)) + " |\n")
    return "".join(lines)


def networks_tables() -> str:
    """A section for every run of which the scores of the single networks are kept."""
    sections = []
    for dataset in PLANNED:
        for run in records.read(dataset):
            if len(run["networks"]) > 1:
                sections.append(_section(dataset, run))
    return "\n".join(sections)


def _section(dataset: str, run: dict) -> str:
    start = f", from {run['start']}" if run["start"] else ""
    lines = [
        f"### {dataset}, {run['datalist']}, {run['method']}{start}, seed {run['seed']}, {run['steps']} steps\n\n",
        f"{run['test_scans']} test scans; {run['minutes']:.0f} minutes on {run['device']}; ",
        f"{run['peak_memory_gib']} GiB; ",
        f"weights: {run['weights']}; torch {run['versions']['torch']}, monai {run['versions']['monai']}.\n\n",
        "| network | Dice | Jaccard | HD95 (mm) | HD95, pooled (mm) | ASD (mm) | HD95 (voxels) | empty |\n",
        "|---|---|---|---|---|---|---|---|\n",
    ]
    for name, scores in run["networks"].items():
        digits = zip(records.SUMMARIES, (3, 3, 2, 2, 2, 2), strict=True)
        cells = [_over_scans(scores[key], count) for key, count in digits]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {scores['empty']} |\n")
    if len(classes := run["networks"]["ensemble"]["classes"]) > 1:
        parts = ", ".join(f"{name} {_over_scans(dice, 3)}" for name, dice in classes.items())
        lines.append(f"\nEnsemble Dice by class: {parts}.\n")
    return "".join(lines)


def _over_scans(statistics: list[float | None], digits: int) -> str:
    mean, std = statistics
    return "no value" if mean is None else f"{mean:.{digits}f} ± {std:.{digits}f}"


if __name__ == "__main__":
    fire.Fire(results)
