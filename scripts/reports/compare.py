# SPDX-License-Identifier: Apache-2.0
"""Two runs, case by case: did the second one get better, and by more than chance?"""

from __future__ import annotations

import csv
import logging
import math
import shlex
from typing import Any

import numpy as np

from ..data.datalist.patients import find_sessions, patient_in, patient_pattern
from ..errors import DataError
from ..runs.run import Run
from .statistics import paired_difference

__all__ = ["case_scores", "compare_runs"]

logger = logging.getLogger(__name__)


def compare_runs(
    first: Run,
    second: Run,
    measures: tuple[str, ...] = ("dice", "hd95_mm", "asd_mm"),
    group: str | None = None,
) -> dict[str, Any]:
    """The ensembles of two runs over the scans that both have scored (ours).

    Scans of one patient are alike, so that a test that takes them for independent finds too much. With ``group`` a
    patient counts once, by the mean of the scans.

    Args:
        first: the run to compare with.
        second: the run that may be better.
        measures: columns of metrics.csv.
        group: regular expression for the patient in the name of a case, whose first group counts where it has groups.

    Returns:
        {class name or "mean": {measure: what :func:`paired_difference` gives, with the means ``first`` and
        ``second``}}, and under "left_out" the cases that only one of them has.

    Raises:
        DataError: when a run has no scores, they share no case, or the pattern is none or not in a name.
    """
    one, other = case_scores(first), case_scores(second)
    shared = [case for case in one if case in other]
    if not shared:
        raise DataError(f"{second.folder}: has scored no scan that {first.folder} has. Evaluate both on one datalist.")
    pattern = patient_pattern(group) if group is not None else None
    patients = [case if pattern is None else patient_in(case, pattern) for case in shared]
    names = [name for name in one[shared[0]] if all(name in other[case] for case in shared)]
    if pattern is None and (found := find_sessions(shared)):
        logger.warning(
            "%s look like scans of one patient, %s (%d such). The test takes them for independent, so that its p is "
            "too small. Count each patient once with --group %s.",
            *(" and ".join(found.names), found.patient, found.count, shlex.quote(found.group)),
        )
    result: dict[str, Any] = {"left_out": sorted(set(one) ^ set(other))}
    for name in names:
        result[name] = {}
        for measure in measures:
            pairs: dict[str, list[tuple[float, float]]] = {}
            for case, patient in zip(shared, patients, strict=True):
                pair = (one[case][name][measure], other[case][name][measure])
                if not any(map(math.isnan, pair)):
                    pairs.setdefault(patient, []).append(pair)
            if pairs:
                a, b = zip(*(np.mean(some, axis=0).tolist() for some in pairs.values()), strict=True)
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
