# SPDX-License-Identifier: Apache-2.0
"""The end of an evaluation: one table of scores, on the screen and as markdown, and what was written where."""

from __future__ import annotations

import html
import os
import re
import sys
from collections.abc import Iterator, Mapping

from ignite.engine import Engine, Events
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..files import save_text
from ..ranks import is_main_process
from ..runs.run import Run

__all__ = ["ResultsReport", "report_results", "results_markdown", "results_table"]

COLUMNS = {"dice": "Dice", "jaccard": "Jaccard", "hd95_mm": "HD95 (mm)", "asd_mm": "ASD (mm)"}
# Written to a log the table keeps its columns; a terminal decides for itself.
LOG_WIDTH = 120


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
        title=title or f"Scores of {summary['cases']} cases, mean ± standard deviation",
        caption=escape(_remark(summary) or "") or None,
    )
    table.add_column("Network")
    table.add_column("Class")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for network, rows in _rows(summary):
        for name, cells, last in rows:
            table.add_row(
                escape(network), escape(name), *cells, end_section=last, style="bold" if name == "mean" else None
            )
            network = ""
    return table


def results_markdown(summary: Mapping[str, object]) -> str:
    """The table of `results_table` as markdown, with a line that states the conventions."""
    lines = ["| " + " | ".join(["Network", "Class", *COLUMNS.values()]) + " |", "|---|---|" + "---:|" * len(COLUMNS)]
    for network, rows in _rows(summary):
        lines += ["| " + " | ".join([_as_text(network), _as_text(name), *cells]) + " |" for name, cells, _ in rows]
    conventions = summary["conventions"]
    notes = [
        f"Mean ± standard deviation over {summary['cases']} cases.",
        f"HD95: {conventions['hd95']}; metrics.json has the other convention and the distances in voxels.",
        _as_text(_remark(summary) or ""),
    ]
    return "\n".join([*lines, "", " ".join(filter(None, notes)), ""])


def _as_text(name: str) -> str:
    """A name that markdown and a browser show as it is."""
    return re.sub(r"([\\`*_{}\[\]|~#])", r"\\\1", html.escape(" ".join(name.split()), quote=False))


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
    run = Run(output_dir)
    console = console or output_console()
    summary = run.summary()
    save_text(results_markdown(summary), run.table_file)
    console.print(results_table(summary))
    console.print(f"Written to {run.folder.resolve()}:", highlight=False, soft_wrap=True)
    listing = Table(box=None, show_header=False, padding=(0, 2))
    for name, description in run.listing():
        listing.add_row(name, description)
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
        if is_main_process():
            report_results(self.output_dir)
