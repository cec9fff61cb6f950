# SPDX-License-Identifier: Apache-2.0
"""Two runs, case by case: did the second one get better, and by more than chance?"""

from __future__ import annotations

import csv
import math
from typing import Any

from ..errors import DataError
from ..runs.run import Run
from .statistics import paired_difference

__all__ = ["case_scores", "compare_runs"]


def compare_runs(first: Run, second: Run, measures: tuple[str, ...] = ("dice", "hd95_mm", "asd_mm")) -> dict[str, Any]:
    """The ensembles of two runs over the scans that both have scored (ours).

    Args:
        first: the run to compare with.
        second: the run that may be better.
        measures: columns of metrics.csv.

    Returns:
        {class name or "mean": {measure: what :func:`paired_difference` gives, with the means ``first`` and
        ``second``}}, and under "left_out" the cases that only one of them has.

    Raises:
        DataError: when a run has no scores, or they share no case.
    """
    one, other = case_scores(first), case_scores(second)
    shared = [case for case in one if case in other]
    if not shared:
        raise DataError(f"{second.folder}: has scored no scan that {first.folder} has. Evaluate both on one datalist.")
    groups = [name for name in one[shared[0]] if all(name in other[case] for case in shared)]
    result: dict[str, Any] = {"left_out": sorted(set(one) ^ set(other))}
    for name in groups:
        result[name] = {}
        for measure in measures:
            pairs = [(one[case][name][measure], other[case][name][measure]) for case in shared]
            pairs = [pair for pair in pairs if not any(map(math.isnan, pair))]
            if pairs:
                a, b = zip(*pairs, strict=True)
                means = {"first": sum(a) / len(a), "second": sum(b) / len(b)}
                result[name][measure] = means | paired_difference(a, b)
    return result


def case_scores(run: Run, network: str | None = None) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of a network by case, class and measure; ``mean`` is that over the classes with a value (ours).

    Args:
        run: with a metrics.csv.
        network: its name; default: the first one, by which the run is judged.

    Raises:
        DataError: when the run has no scores.
    """
    if not run.scores_file.is_file():
        raise DataError(f"{run.folder}: has no {run.scores_file.name}. Train with test scans, or evaluate it.")
    with run.scores_file.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    network = network or (rows[0]["network"] if rows else None)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row["network"] == network:
            values = {key: _number(value) for key, value in row.items() if key not in ("case", "network", "name")}
            scores.setdefault(row["case"], {})[row["name"]] = values
    for classes in scores.values():
        keys = next(iter(classes.values()))
        classes["mean"] = {key: _mean([values[key] for values in classes.values()]) for key in keys}
    return scores


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # a path, or True and False
        return math.nan


def _mean(values: list[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan
