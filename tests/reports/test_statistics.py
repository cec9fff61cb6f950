# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy import stats

from scripts.reports import segmentation_metrics
from scripts.reports.statistics import (
    agreement_quality,
    area_under_risk_coverage,
    bootstrap_interval,
    paired_difference,
)


def test_the_interval_is_that_of_scipy_and_the_same_at_every_call():
    values = np.random.default_rng(1).normal(0.8, 0.1, 30)
    low, high = bootstrap_interval(values)
    other = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert (low, high) == pytest.approx((other.low, other.high), abs=0.003)
    assert low < values.mean() < high and bootstrap_interval(values) == [low, high]
    assert bootstrap_interval([0.9]) is None


def test_pairs_are_compared_case_by_case():
    first = [0.5, 0.9, 0.7, 0.8, 0.6, 0.85, 0.4]
    second = [0.6, 0.91, 0.75, 0.78, 0.66, 0.87, 0.5]
    found = paired_difference(first, second)
    assert found["mean"] == pytest.approx(np.mean(second) - np.mean(first))
    assert (found["larger"], found["smaller"], found["cases"]) == (6, 1, 7)
    assert found["p"] == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert found["ci95"][0] < found["mean"] < found["ci95"][1]


def test_few_or_equal_pairs_have_no_p():
    assert paired_difference([0.5] * 5, [0.6] * 5)["p"] is None
    assert paired_difference([0.5] * 9, [0.5] * 9)["p"] is None
    with pytest.raises(ValueError, match="same cases"):
        paired_difference([0.5], [0.5, 0.6])


def test_risk_coverage_by_hand():
    # the surest case has error 0.1, then 0.3, then 0.2: means 0.1, 0.2, 0.2
    assert area_under_risk_coverage([9, 7, 8], [0.9, 0.8, 0.7]) == pytest.approx((0.1 + 0.2 + 0.2) / 3)


def test_agreement_that_follows_dice_predicts_it_and_none_does_not():
    dice = np.linspace(0.5, 0.9, 9)
    exact = agreement_quality(dice / 2, dice)
    assert exact["error"] == pytest.approx(0, abs=1e-9) and exact["correlation"] == pytest.approx(1)
    assert exact["risk_coverage"] == exact["best"] < exact["random"] == pytest.approx(0.3)
    reverse = agreement_quality(-dice, dice)
    assert reverse["correlation"] == pytest.approx(-1) and reverse["risk_coverage"] > reverse["random"]
    assert agreement_quality([1, 1, 1, 1], [0.5, 0.6, 0.7, 0.8])["correlation"] is None
    assert agreement_quality([1, 2, 3], [0.1, 0.2, 0.3]) is None


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.6, 1.2, 3.0)])
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_surface_dice_is_that_of_monai(spacing, tolerance):
    pred, label = torch.zeros(1, 16, 16, 16).long(), torch.zeros(1, 16, 16, 16).long()
    pred[0, 4:11, 4:12, 5:11], label[0, 5:12, 4:11, 4:12] = 1, 1
    (scores,) = segmentation_metrics(pred, label, 2, spacing, tolerance).values()
    monai = compute_surface_dice(pred[None].float(), label[None].float(), [tolerance], True, spacing=spacing).item()
    assert scores["surface_dice"] == pytest.approx(monai)


def test_volume_error_and_empty_sides():
    label = torch.zeros(1, 10, 10, 10).long()
    label[0, 2:7, 2:7, 2:6] = 1  # 100 voxels
    (same,) = segmentation_metrics(label, label, 2, (2, 2, 2.5)).values()
    assert same["volume_error_ml"] == 0 and same["surface_dice"] == 1
    (missed,) = segmentation_metrics(label * 0, label, 2, (2, 2, 2.5)).values()
    assert missed["volume_error_ml"] == pytest.approx(-1.0) and missed["surface_dice"] == 0
    (both,) = segmentation_metrics(label * 0, label * 0, 2, (2, 2, 2.5)).values()
    assert math.isnan(both["volume_error_ml"]) and math.isnan(both["surface_dice"])
