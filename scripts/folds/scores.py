# SPDX-License-Identifier: Apache-2.0
"""The score of a cross-validation: every labelled scan, by networks that have not seen it."""

from __future__ import annotations

import csv
import math
from datetime import datetime, timezone
from typing import Any

from ..certainty import certainty_cases, write_certainty
from ..errors import DataError
from ..reports import report_results, scores_summary, write_report, write_scores
from ..reports.cases import case_names
from ..runs.run import Run

__all__ = ["pool_scores"]

TEXTS = ("case", "network", "name", "image")
SWITCHES = ("empty_pred", "empty_label")


def pool_scores(run: Run) -> None:
    """Write scores, certainty.json and report.html over all folds, and mark it as finished (ours).

    Args:
        run: folder of a cross-validation whose folds have been trained.

    Raises:
        DataError: when a fold has no scores.
    """
    rows = [row for fold in run.folds for row in _rows(fold)]
    names = case_names(list(dict.fromkeys(row["image"] for row in rows)))
    rows = [row | {"case": names[row["image"]]} for row in rows]
    foreground = {row["class"]: row["name"] for row in rows}
    summary = scores_summary(rows, foreground)
    write_scores(run, rows, summary)
    if cases := [case for fold in run.folds for case in certainty_cases(fold)]:
        write_certainty(run, cases)
    write_report(run.folder)
    report_results(run.folder)
    run.finish_folds({"finished": datetime.now(timezone.utc).isoformat(timespec="seconds")})


def _rows(fold: Run) -> list[dict[str, Any]]:
    if not fold.scores_file.is_file():
        raise DataError(f"{fold.folder}: has no {fold.scores_file.name}. Give the command of the training again.")
    with fold.scores_file.open(encoding="utf-8", newline="") as file:
        return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(key: str, text: str) -> Any:
    if key in TEXTS:
        return text
    if key in SWITCHES:
        return text == "True"
    return int(text) if key == "class" else float(text or math.nan)
