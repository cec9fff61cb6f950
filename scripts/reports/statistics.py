# SPDX-License-Identifier: Apache-2.0
"""How far scores of few scans can be trusted: intervals, paired tests, and what the networks' agreement predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["agreement_quality", "area_under_risk_coverage", "bootstrap_interval", "paired_difference"]

DRAWS = 2000
FEWEST_PAIRS = 6
"""With five pairs no sign-rank test can come below 0.05."""


def bootstrap_interval(values: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean by the percentile bootstrap, the same at every call.

    Args:
        values: one a case, without nan.

    Returns:
        [low, high]; None for fewer than two values, which say nothing of their spread.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    draws = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    return [float(bound) for bound in np.percentile(values[draws].mean(axis=1), (2.5, 97.5))]


def paired_difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Second minus first over the same cases.

    Args:
        first: one score a case, without nan.
        second: of the same cases in the same order.

    Returns:
        ``mean`` and ``ci95`` (bootstrap) of the differences; ``larger`` and ``smaller``, numbers of cases in which the
        second is larger and smaller; ``p`` of Wilcoxon's signed-rank test, two-sided, None for fewer than 6 pairs or
        where all are equal.

    Raises:
        ValueError: when they are not of the same number of cases, or of none.
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"first and second must be of the same cases, got {len(first)} and {len(second)}.")
    differences = np.subtract(second, first)
    testable = len(differences) >= FEWEST_PAIRS and np.any(differences)
    return {
        "cases": len(differences),
        "mean": float(differences.mean()),
        "ci95": bootstrap_interval(differences),
        "larger": int((differences > 0).sum()),
        "smaller": int((differences < 0).sum()),
        "p": float(stats.wilcoxon(differences).pvalue) if testable else None,
    }


def area_under_risk_coverage(confidence: Sequence[float], quality: Sequence[float]) -> float:
    """Mean error of the k cases one is surest of, averaged over k = 1 ... n; lower is better.

    Args:
        confidence: larger is surer.
        quality: from 0 to 1, such as Dice; the error is 1 - quality.

    Source: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.
    """
    errors = 1 - np.asarray(quality, dtype=float)[np.argsort(-np.asarray(confidence, dtype=float), kind="stable")]
    return float(np.mean(np.cumsum(errors) / np.arange(1, len(errors) + 1)))


def agreement_quality(agreement: Sequence[float], dice: Sequence[float]) -> dict[str, Any] | None:
    """How well the Dice of two networks with each other predicts their ensemble's Dice with the label (ours).

    Each case is predicted by the straight line through the other cases.

    Args:
        agreement: one a case.
        dice: of the same cases.

    Returns:
        ``predicted`` Dice of each case, their mean absolute ``error``, Spearman's ``correlation`` of agreement and Dice
        (None where one of them is constant), the area under the ``risk_coverage`` curve, and that of the ``best``
        possible and of a ``random`` order. None for fewer than 4 cases.
    """
    x, y = np.asarray(agreement, dtype=float), np.asarray(dice, dtype=float)
    if len(x) < 4:
        return None
    predicted = [float(_line(np.delete(x, i), np.delete(y, i), x[i])) for i in range(len(x))]
    constant = np.ptp(x) == 0 or np.ptp(y) == 0
    return {
        "predicted": predicted,
        "error": float(np.abs(np.subtract(predicted, y)).mean()),
        "correlation": None if constant else float(stats.spearmanr(x, y).statistic),
        "risk_coverage": area_under_risk_coverage(x, y),
        "best": area_under_risk_coverage(y, y),
        "random": float(1 - y.mean()),
    }


def _line(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """Value at a point of the least-squares line through others, within 0 and 1."""
    if np.ptp(x) == 0:
        return float(y.mean())
    slope, offset = np.polyfit(x, y, 1)
    return float(np.clip(slope * at + offset, 0, 1))
