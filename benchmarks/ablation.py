# SPDX-License-Identifier: Apache-2.0
"""Measure what each method, and each part of it, is worth: run what is missing, resume what was cut off, write tables.

    python benchmarks/ablation.py hippocampus --dataset_dir DIR --labels 2 [--seeds 3] [--rows control,paper]
    python benchmarks/ablation.py hippocampus --dataset_dir DIR --labels 2 --max_epochs 20
    python benchmarks/ablation.py hippocampus --dataset_dir DIR --stem_stride 2 --patch_size "[32,64,32]"

Rows and cells (data sets, numbers of labels) stand in rows.py. All rows have the same networks, augmentation and number
of steps, that of the default's two parts. What a finished run found is added to ``benchmarks/results/DATASET.json``; a
table holds runs with the same overrides. With ``--max_epochs`` alone the same rows are compared in fewer steps, in a
table and a file of their own; with other overrides, the rows are those of version 0.x. The tables in docs/ablation.md
are written again after every run. ``python benchmarks/results.py`` writes all tables of all pages.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import fire
import numpy as np
import records
from monai.bundle import ConfigParser
from pages import replace_table
from records import ROOT, Run
from rows import CELLS, CHAIN, COMPARED, METHODS, ROWS, Row
from scipy.stats import wilcoxon
from splits import folder_with

DIGITS = {"dice": 4, "jaccard": 4, "hd95_mm": 2, "asd_mm": 2}


class Cell(NamedTuple):
    """A data set and a number of labels with a budget: where its runs are, and how one is started.

    Attributes:
        dataset: name of the data set.
        datalist: name of the datalist.
        data: its folder.
        configs: those of every row.
        options: what every row is given besides.
        results: name of the result file, without ``.json``.
        runs: folder of the runs.
    """

    dataset: str
    datalist: str
    data: Path
    configs: list[str]
    options: dict[str, str]
    results: str
    runs: Path

    @classmethod
    def make(
        cls,
        dataset: str,
        dataset_dir: str,
        labels: int | str,
        options: Mapping[str, str],
        recipe: str = "cpu",
        runs_dir: str = "runs",
    ) -> Cell:
        """Of the folder of the datalists; without options the budget is the recipe's.

        Raises:
            SystemExit: when a config or the datalist is missing.
        """
        configs = ["configs/train.json", f"configs/datasets/{dataset}.json", f"configs/recipes/{recipe}.json"]
        if missing := [name for name in configs if not (ROOT / name).exists()]:
            raise SystemExit(f"{', '.join(missing)}: no such file.")
        of_recipe = budget(configs)
        options = dict(options) or of_recipe
        is_short = options.keys() == {"max_epochs"} and options != of_recipe
        results = short_file(dataset, options) if is_short else dataset
        runs = Path(runs_dir).resolve() / f"{results}_{labels}"
        data = folder_with(Path(dataset_dir).resolve(), str(labels), runs)
        return cls(dataset, f"datalist_{labels}.json", data, configs, options, results, runs)

    @property
    def is_short(self) -> bool:
        """Whether its runs are shorter than the recipe's: these have a file of their own."""
        return self.results != self.dataset

    def folder(self, name: str, seed: int) -> Path:
        """Of a run."""
        return self.runs / f"{self.dataset}_{name}_seed{seed}"

    def finished(self, name: str) -> dict[int, dict]:
        """Records of a row's finished runs, by seed."""
        return finished(self.results, name, self.datalist, self.options)

    def start(self, name: str, seed: int) -> Run:
        """The run whose weights a row starts from.

        Raises:
            SystemExit: when these are missing.
        """
        before = Run(self.folder(ROWS[name].after, seed))
        if not before.model.exists():
            raise SystemExit(
                f"{before.folder}: {name} starts from its weights. Put it back, or repeat it in another folder."
            )
        return before

    def arguments(self, name: str, seed: int) -> list[str]:
        """Of ``monai.bundle``, to train a row; the row that it starts from has been trained.

        Raises:
            SystemExit: when the weights that it starts from are missing.
        """
        row = ROWS[name]
        words = ["run", "training", "--config_file", repr([*self.configs, *row.configs])]
        words += ["--dataset_dir", str(self.data), "--runs_dir", str(self.runs)]
        words += [word for option, value in self.options.items() for word in (f"--{option}", str(value))]
        words += [] if self.datalist == "datalist_8.json" else ["--datalist_name", self.datalist]
        words += ["--seed", str(seed)]
        return [*words, "--initial_weights", str(self.start(name, seed).model)] if row.after else words

    def add(self, folder: Path, **changes: object) -> None:
        """Add the record of a finished run.

        Raises:
            SystemExit: when it is of another experiment.
        """
        record = {**records.record(folder)[1], **changes}
        if (record["options"], record["datalist"]) != (self.options, self.datalist):
            raise SystemExit(f"{folder} is a run with other overrides. Give another --runs_dir, or move it away.")
        records.add(self.results, record)

    def write_tables(self, page: Path, is_chain: bool) -> None:
        """Into the page that has a place for them."""
        labels = records.labels({"datalist": self.datalist})
        if self.is_short:
            replace_table(page, f"comparison {self.dataset}", comparison(self.dataset, self.options))
        elif is_chain:
            table = table_of(self.dataset, self.datalist, self.options)
            replace_table(page, f"ablation {self.dataset} {labels}", table)
        else:
            replace_table(page, f"cell {self.dataset} {labels}", cell_table(self.dataset, labels, self.options))
            replace_table(page, "methods", overview())


def ablation(
    dataset: str,
    dataset_dir: str | None = None,
    seeds: int = 1,
    rows: str | tuple[str, ...] | None = None,
    runs_dir: str = "runs",
    recipe: str = "cpu",
    labels: int | str = 8,
    threads: int | None = None,
    document: str = "docs/ablation.md",
    **overrides: object,
) -> None:
    """Train the rows that are missing, one after the other, and write the tables after each.

    Args:
        dataset: name of a config in configs/datasets.
        dataset_dir: folder of its datalists; those for other numbers of labels are made in ``runs_dir``.
        seeds: seeds 0 to this number less one for the rows that are run with every seed; seed 0 alone for the others.
        rows: names of rows, with commas between them; default: all.
        runs_dir: where the run folders are, in a folder for each data set and number of labels.
        recipe: name of a config in configs/recipes.
        labels: how many scans are labelled, as in the name of the datalist, ``datalist_8.json``, or ``all``.
        threads: threads of PyTorch; default: its own choice.
        document: where the tables go; their lines, such as ``<!-- table cell DATASET LABELS -->``, must be there.
        overrides: further values of the config, the same for every row: ``--max_epochs 20``.

    Raises:
        SystemExit: when an argument names nothing that exists, a run fails, or a run folder is of another experiment.
    """
    table = CHAIN if overrides.keys() - {"max_epochs"} else METHODS
    names = names_of(rows, table)
    if dataset_dir is None:
        raise SystemExit("Give --dataset_dir, the folder of the datalists.")
    options = {name: "".join(str(value).split()) for name, value in overrides.items()}
    cell = Cell.make(dataset, dataset_dir, labels, options, recipe=recipe, runs_dir=runs_dir)
    if cell.is_short:
        names = without_other_budgets(names, rows is not None)
    page = ROOT / document
    cell.write_tables(page, table is CHAIN)

    def train(name: str, seed: int) -> None:
        """Train a row, and before it the row that it starts from; what is finished is on record and kept."""
        if seed in cell.finished(name):
            return
        row, folder = ROWS[name], cell.folder(name, seed)
        if row.after:
            train(row.after, seed)
        if row.program == "nnunet":
            command = ["benchmarks/peers/nnunet.py", dataset, "--dataset_dir", str(cell.data), "--labels", str(labels)]
            command += ["--seed", str(seed), "--threads", str(threads or os.cpu_count())]
            command += ["--work", str(cell.runs / "nnunet")]
            if row.after:
                command += ["--minutes", str(cell.finished(row.after)[seed]["minutes"])]
            run(command, threads)  # which adds its record
        elif row.program == "selftrain":
            before, start = cell.start(name, seed).folder, cell.finished(row.after)[seed]
            run(["-m", "scripts", "selftrain", str(before)], threads)
            folder = before.with_name(f"{before.name}_selftrain1")
            minutes = round(records.record(folder)[1]["minutes"] + start["minutes"], 1)
            command = f"python -m scripts selftrain runs/{before.name}"
            cell.add(folder, options=cell.options, minutes=minutes, command=command)
        else:
            arguments = cell.arguments(name, seed)
            if not Run(folder).is_finished:
                run(["-m", "monai.bundle", *arguments], threads)
            cell.add(folder)
        cell.write_tables(page, table is CHAIN)

    # all rows with seed 0 before any with seed 1: a table cut short by time compares every method
    for seed in range(seeds):
        for name in names:
            if seed == 0 or ROWS[name].always:
                train(name, seed)


def names_of(rows: str | Iterable[str] | None, table: Mapping[str, Row]) -> list[str]:
    """The rows that are asked for; all where none is.

    Raises:
        SystemExit: when there is no such row.
    """
    names = list(table) if rows is None else rows.split(",") if isinstance(rows, str) else list(rows)
    if unknown := [name for name in names if name not in table]:
        raise SystemExit(f"--rows names {', '.join(unknown)}, but there are {', '.join(table)}.")
    return names


def without_other_budgets(names: list[str], are_given: bool) -> list[str]:
    """The rows that can be compared in any number of steps.

    Raises:
        SystemExit: when others were asked for.
    """
    kept = [name for name in names if ROWS[name].program != "nnunet"]
    if are_given and kept != names:
        raise SystemExit("nnU-Net is trained as long as the recipe's runs: leave out --max_epochs.")
    return kept


def budget(configs: list[str]) -> dict[str, str]:
    """What makes every row as long as the default is in both of its parts."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / name) for name in configs])
    return {"max_epochs": str(parser.get_parsed_content("max_epochs"))}


def run(arguments: list[str], threads: int | None) -> None:
    """One program, in a process of its own, so that each has its own memory and random state."""
    command = [sys.executable, *arguments]
    print("\n" + shlex.join(command), flush=True)
    environment = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode != 0:
        raise SystemExit("The run above failed; what was finished before it is in the table.")


def short_file(dataset: str, options: Mapping[str, str]) -> str:
    """Name of the result file of runs that are shorter than the recipe's."""
    return f"{dataset}_{options['max_epochs']}_epochs"


def finished(results: str, method: str, datalist: str, options: dict[str, str]) -> dict[int, dict]:
    """Records of the finished runs of a row with these options, by seed: from the start that the row has."""
    row = ROWS[method]
    wanted = {"method": method, "datalist": datalist}
    if row.program == "nnunet":
        return {run["seed"]: run for run in records.read(results) if wanted.items() <= run.items()}
    wanted["options"] = options
    dataset = re.sub(r"_\d+_epochs$", "", results)
    start = re.compile("None" if row.after is None else rf"{dataset}_{row.after}_seed\d+")
    found = [run for run in records.read(results) if wanted.items() <= run.items()]
    return {run["seed"]: run for run in found if start.fullmatch(str(run["start"]))}


def cell_table(dataset: str, labels: str, options: dict[str, str]) -> str:
    """What was run of a data set and number of labels, as markdown, with the commands; what was not is named."""
    results = {name: finished(dataset, name, f"datalist_{labels}.json", options) for name in METHODS}
    bound = {} if labels == "all" else finished(dataset, "control", "datalist_all.json", options)
    lines = [
        "| row | seeds | Dice | HD95 (mm) | minus control | p | gap closed | minutes |\n",
        "|---|---|---|---|---|---|---|---|\n",
    ]
    for name, by_seed in results.items():
        if by_seed:
            runs = list(by_seed.values())
            cells = [f"`{name}`", str(len(runs)), *means(runs, {key: DIGITS[key] for key in ("dice", "hd95_mm")})]
            cells += (
                ["", "", ""]
                if name == "control"
                else [
                    *compare(by_seed, results["control"]),
                    gap_closed(by_seed, results["control"], bound),
                ]
            )
            lines.append("| " + " | ".join([*cells, spread([run["minutes"] for run in runs], 0)]) + " |\n")
    missing = [f"`{name}`" for name, by_seed in results.items() if not by_seed]
    if len(missing) == len(METHODS):
        return "Not run.\n"
    if missing:
        lines.append("\n" + fill(f"Not run: {', '.join(missing)}.", 120, break_on_hyphens=False) + "\n")
    return "".join(lines) + commands_of(results, METHODS)


def comparison(dataset: str, options: dict[str, str]) -> str:
    """Every method with the same, short budget at several numbers of labels, best mean first, with the commands."""
    file, columns = short_file(dataset, options), COMPARED.get(dataset, ())
    names = without_other_budgets(list(METHODS), False)
    found = {name: [finished(file, name, f"datalist_{one}.json", options) for one in columns] for name in names}
    found = {name: cells for name, cells in found.items() if any(cells)}
    if not found:
        return "Not run.\n"

    def order(cells: list[dict[int, dict]]) -> tuple[bool, float]:
        """Rows with a cell that was not run stand last."""
        return not all(cells), -np.mean([_dice(runs) for runs in cells if runs])

    titles = [f"{one} labels | HD95 (mm) | minus control | p | seeds" for one in columns]
    lines = ["| row | " + " | ".join(titles) + " |\n", "|---" * (1 + 5 * len(columns)) + "|\n"]
    for name, cells in sorted(found.items(), key=lambda item: order(item[1])):
        texts = [f"`{name}`"]
        for by_seed, control in zip(cells, found.get("control", [{}] * len(columns)), strict=True):
            runs = list(by_seed.values())
            scores = means(runs, {"dice": 3, "hd95_mm": 2}) if runs else ["not run", ""]
            texts += [*scores, *(["", ""] if name == "control" else compare(by_seed, control)), join(by_seed)]
        lines.append("| " + " | ".join(texts) + " |\n")
    every = [run for cells in found.values() for by_seed in cells for run in by_seed.values()]
    missing = [f"`{name}`" for name in names if name not in found]
    lines.append("\n" + fill(f"Not run: {', '.join(missing)}.", 120, break_on_hyphens=False) + "\n" if missing else "")
    lines.append(f"\nSteps: {join(run['steps'] for run in every)}; on {join(run['device'] for run in every)}.\n")
    return "".join(lines) + commands_of({name: cells[0] or cells[-1] for name, cells in found.items()}, METHODS)


def _dice(runs: dict[int, dict]) -> float:
    return float(np.mean([run["networks"]["ensemble"]["dice"][0] for run in runs.values()]))


def gap_closed(method: dict[int, dict], control: dict[int, dict], bound: dict[int, dict]) -> str:
    """Share of the way from the control to the control with all labels, from the seeds that method and control have."""
    seeds = method.keys() & control.keys()
    if not seeds or not bound:
        return ""
    ours, theirs, best = (
        np.mean([run["networks"]["ensemble"]["dice"][0] for run in group])
        for group in ([method[seed] for seed in seeds], [control[seed] for seed in seeds], bound.values())
    )
    return f"{(ours - theirs) / (best - theirs):.0%}" if best > theirs else ""


def overview() -> str:
    """Dice of every method in every cell, mean over the seeds."""
    cells = [(dataset, labels) for dataset, counts in CELLS.items() for labels in counts]
    budgets = {dataset: cell_options(dataset) for dataset in CELLS}
    titles = [f"{dataset.replace('_', ' ')} {labels}" for dataset, labels in cells]
    lines = ["| row | " + " | ".join(titles) + " |\n", "|---" * (len(cells) + 1) + "|\n"]
    for name in METHODS:
        found = [finished(dataset, name, f"datalist_{labels}.json", budgets[dataset]) for dataset, labels in cells]
        dice = [f"{_dice(runs):.3f}" if runs else "not run" for runs in found]
        lines.append(f"| `{name}` | " + " | ".join(dice) + " |\n")
    return "".join(lines)


def cell_options(dataset: str) -> dict[str, str]:
    """The options of the runs in the cells of a data set."""
    return budget(["configs/train.json", f"configs/datasets/{dataset}.json", "configs/recipes/cpu.json"])


def table_of(dataset: str, datalist: str, options: dict[str, str]) -> str:
    """The table as markdown, with the command of every row that was run."""
    results = {name: finished(dataset, name, datalist, options) for name in CHAIN}
    lines = [
        "| row | seeds | Dice | Jaccard | HD95 (mm) | ASD (mm) | minus supervised | p | minutes | GiB |\n",
        "|---|---|---|---|---|---|---|---|---|---|\n",
    ]
    for name in CHAIN:
        if not results[name]:
            lines.append(f"| `{name}` | not run |" + " |" * 8 + "\n")
            continue
        runs = list(results[name].values())
        cells = [f"`{name}`", str(len(runs)), *means(runs, DIGITS)]
        cells += compare(results[name], results["supervised"]) if name != "supervised" else ["", ""]
        cells += [spread([run["minutes"] for run in runs], 0), spread([run["peak_memory_gib"] for run in runs], 1)]
        lines.append("| " + " | ".join(cells) + " |\n")
    runs = [run for by_seed in results.values() for run in by_seed.values()]
    if not runs:
        return "".join(lines)
    length = f"\nSteps: {join(run['steps'] for run in runs)}; on {join(run['device'] for run in runs)}.\n"
    return "".join(lines) + length + commands_of(results, CHAIN)


def means(runs: list[dict], digits: Mapping[str, int]) -> list[str]:
    """Scores of the ensemble, mean over the runs, with the standard deviation where there are several."""
    return [spread([run["networks"]["ensemble"][key][0] for run in runs], count) for key, count in digits.items()]


def join(values: Iterable) -> str:
    return ", ".join(str(value) for value in sorted(set(values), key=str))


def spread(values: list[float], digits: int) -> str:
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def compare(method: dict[int, dict], baseline: dict[int, dict]) -> list[str]:
    """Mean difference over the scans, and the p-value of the paired test, from the seeds with scans that both have.

    The test is over patients, of whom ACDC has two volumes each: these are not independent.
    """
    seeds = sorted(method.keys() & baseline.keys())
    pairs = [(method[seed]["scans"].get("dice"), baseline[seed]["scans"].get("dice")) for seed in seeds]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
        return ["", ""]
    cases = sorted(set.intersection(*(set(scores) for pair in pairs for scores in pair)))
    differences = {case: np.mean([ours[case] - theirs[case] for ours, theirs in pairs]) for case in cases}
    by_patient: dict[str, list[float]] = {}
    for case, difference in differences.items():
        by_patient.setdefault(case.partition("_frame")[0], []).append(difference)
    of_patients = [np.mean(of_one) for of_one in by_patient.values()]
    p = wilcoxon(of_patients).pvalue if len(of_patients) > 5 and np.any(of_patients) else float("nan")
    return [f"{100 * np.mean(list(differences.values())):+.2f} points", f"{p:.2g}"]


def commands_of(results: dict[str, dict[int, dict]], rows: Mapping[str, Row]) -> str:
    """The command that repeats each row that was run, with the configs that make the row today."""
    commands = []
    for name, runs in results.items():
        if runs:
            run = next(iter(runs.values()))
            configs = [*run["configs"][:3], *rows[name].configs]  # all begin with train, data set, recipe
            commands.append(f"# {name}: {rows[name].title}; seeds {join(runs)}\n")
            commands.append(records.command(run | {"configs": configs}, "N") + "\n")
    return f"\n<details><summary>Commands</summary>\n\n```bash\n{''.join(commands)}```\n\n</details>\n"


if __name__ == "__main__":
    fire.Fire(ablation)
