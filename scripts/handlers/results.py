# SPDX-License-Identifier: Apache-2.0
"""The end of an evaluation: one table of scores, on the screen and as markdown, and what was written where."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch.distributed as dist
from ignite.engine import Engine, Events
from rich.console import Console
from rich.table import Table

from .atomic import replace_file

__all__ = ["ResultsReport", "report_results", "results_markdown", "results_table"]

COLUMNS = {"dice": "Dice", "jaccard": "Jaccard", "hd95_mm": "HD95 (mm)", "asd_mm": "ASD (mm)"}
# Written to a log the table keeps its columns; a terminal decides for itself.
LOG_WIDTH = 120
FILES = {
    "config.json": "the config of the run, all overrides merged",
    "inference.json": "override for configs/inference.json: how to use this model",
    "initial_weights.json": "which weights the run started from",
    "last.pt": "state of the training, from which it resumes",
    "metrics.csv": "scores of every case, network and class",
    "metrics.json": "mean, standard deviation and median, with the conventions",
    "model.json": "which epoch model.pt is from, and how it was chosen",
    "model.pt": "weights of both networks, to use",
    "model_best.pt": "weights of the best epoch on the validation scans",
    "results.md": "the table above",
    "train_log.jsonl": "losses and pseudo-label statistics of every epoch",
    "evaluation": "scores of a later evaluation",
    "pictures": "worst, median and best case; training curves",
    "tensorboard": "event files for TensorBoard",
}


def output_console() -> Console:
    """A console on standard output that is wide enough for a table when the output is a log file."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def results_table(summary: Mapping[str, object], title: str | None = None) -> Table:
    """Table of Dice, Jaccard, HD95 and ASD, mean ± standard deviation over cases, per network and class.

    Args:
        summary: contents of metrics.json (see `CaseMetrics`). The network judged, listed first there, comes last.
        title: heading; the default says how many cases there are.

    Returns:
        A table to print on a rich console; its caption counts the empty predictions and labels.
    """
    table = Table(
        title=title or f"Scores of {summary['cases']} cases, mean ± standard deviation", caption=_remark(summary)
    )
    table.add_column("Network")
    table.add_column("Class")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for network, rows in _rows(summary):
        for name, cells, last in rows:
            table.add_row(network, name, *cells, end_section=last, style="bold" if name == "mean" else None)
            network = ""
    return table


def results_markdown(summary: Mapping[str, object]) -> str:
    """The table of `results_table` as markdown, with a line that states the conventions."""
    lines = ["| " + " | ".join(["Network", "Class", *COLUMNS.values()]) + " |", "|---|---|" + "---:|" * len(COLUMNS)]
    for network, rows in _rows(summary):
        lines += ["| " + " | ".join([network, name, *cells]) + " |" for name, cells, _ in rows]
    conventions = summary["conventions"]
    notes = [
        f"Mean ± standard deviation over {summary['cases']} cases.",
        f"HD95: {conventions['hd95']}; metrics.json has the other convention and the distances in voxels.",
        _remark(summary),
    ]
    return "\n".join([*lines, "", " ".join(filter(None, notes)), ""])


def _rows(summary: Mapping[str, object]) -> Iterator[tuple[str, list[tuple[str, list[str], bool]]]]:
    """(network, [(class, cells, is the network's last row)]), the network judged last."""
    networks = list(summary["networks"].items())
    for network, scores in networks[1:] + networks[:1]:
        groups = dict(scores["classes"])
        if len(groups) > 1:
            groups["mean"] = scores["mean_foreground"]
        yield (
            network,
            [
                (name, [_cell(s[m], 3 if m in ("dice", "jaccard") else 2) for m in COLUMNS], i == len(groups))
                for i, (name, s) in enumerate(groups.items(), 1)
            ],
        )


def _cell(statistics: Mapping[str, float | None], digits: int) -> str:
    if statistics["mean"] is None:
        return "no value"
    return f"{statistics['mean']:.{digits}f} ± {statistics['std']:.{digits}f}"


def _remark(summary: Mapping[str, object]) -> str | None:
    """How many values stand for an empty side, or None."""
    parts = []
    for network, scores in summary["networks"].items():
        mean = scores["mean_foreground"]
        if mean["empty_pred"] or mean["empty_label"]:
            parts.append(f"{network}: {mean['empty_pred']} empty predictions, {mean['empty_label']} empty labels")
    if not parts:
        return None
    return "Only one side has the class (Dice 0, distance = diagonal of the volume) in " + "; ".join(parts) + "."


def report_results(output_dir: str | os.PathLike, console: Console | None = None) -> None:
    """Print the table of metrics.json in `output_dir`, write it to results.md and list what the folder holds.

    Args:
        output_dir: folder in which `CaseMetrics` wrote metrics.json.
        console: where to print; standard output by default.

    Raises:
        FileNotFoundError: if there is no metrics.json.
    """
    output_dir = Path(output_dir)
    console = console or output_console()
    summary = json.loads((output_dir / "metrics.json").read_text())
    with replace_file(output_dir / "results.md") as temporary:
        temporary.write_text(results_markdown(summary), encoding="utf-8")
    console.print(results_table(summary))
    console.print(f"Written to {output_dir.resolve()}:", highlight=False, soft_wrap=True)
    listing = Table(box=None, show_header=False, padding=(0, 2))
    for path in sorted(output_dir.iterdir(), key=lambda p: (p.is_dir(), p.name)):
        count = sum(p.is_file() for p in path.rglob("*")) if path.is_dir() else 0
        listing.add_row(
            f"{path.name}/ ({count} file{'s' * (count != 1)})" if path.is_dir() else path.name, FILES.get(path.name, "")
        )
    console.print(listing)


class ResultsReport:
    """Prints the table of scores and the list of files when an evaluation has ended, on rank 0.

    Put it after `CaseMetrics` and the handlers that write pictures. Source: ours.

    Args:
        output_dir: the folder that `CaseMetrics` writes to.
    """

    def __init__(self, output_dir: str | os.PathLike) -> None:
        self.output_dir = output_dir

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _report(self, engine: Engine) -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            report_results(self.output_dir)
