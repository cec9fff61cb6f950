# SPDX-License-Identifier: Apache-2.0
"""Scores of real structures are those of MONAI, of medpy where it is installed, and of plain distance transforms."""

import math

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt

from scripts.reports import segmentation_metrics

PAIRS = 20
SPACINGS = ((1.0, 1.0, 1.0), (0.5, 1.0, 2.5))


def wrong(label, number):
    """What a network might make of a label: moved, and thinner or thicker here and there."""
    moved = np.roll(label, (number % 3, -(number % 2), 1), axis=(0, 1, 2))
    change = binary_erosion if number % 2 else binary_dilation
    half = np.zeros_like(moved)
    half[: len(half) // 2] = change(moved)[: len(half) // 2]
    half[len(half) // 2 :] = moved[len(half) // 2 :]
    return half


@pytest.fixture(scope="module")
def pairs(shared_data):
    """(prediction, label) of both parts of twenty hippocampi, each as one structure."""
    found = []
    for number, file in enumerate(sorted((shared_data / "hippocampus" / "labels").glob("*.nii.gz"))[:PAIRS]):
        label = np.asarray(nibabel.load(file).dataobj) > 0
        found.append((wrong(label, number), label))
    assert len(found) == PAIRS and len({label.shape for _, label in found}) > 5
    return found


def scored(pred, label, spacing):
    pred, label = (torch.from_numpy(mask.astype(np.int64))[None] for mask in (pred, label))
    return segmentation_metrics(pred, label, 2, spacing)[1]


def by_distance_transforms(pred, label, spacing):
    edges = [mask & ~binary_erosion(mask) for mask in (pred, label)]
    fields = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    there, back = fields[1][edges[0]], fields[0][edges[1]]
    both = np.concatenate([there, back])
    return {
        "dice": 2 * (pred & label).sum() / (pred.sum() + label.sum()),
        "jaccard": (pred & label).sum() / (pred | label).sum(),
        "hd95_mm": max(np.percentile(there, 95), np.percentile(back, 95)),
        "hd95_pooled_mm": np.percentile(both, 95),
        "asd_mm": both.mean(),
        "surface_dice": (both <= 1).mean(),
        "volume_error_ml": (int(pred.sum()) - int(label.sum())) * math.prod(spacing) / 1000,
    }


def by_monai(pred, label, spacing):
    sides = [torch.from_numpy(mask)[None, None].float() for mask in (pred, label)]
    grid = {"include_background": True, "spacing": spacing}
    return {
        "dice": compute_dice(*sides).item(),
        "jaccard": compute_iou(*sides).item(),
        "hd95_mm": compute_hausdorff_distance(*sides, percentile=95, **grid).item(),
        "asd_mm": compute_average_surface_distance(*sides, symmetric=True, **grid).item(),
        "surface_dice": compute_surface_dice(*sides, class_thresholds=[1.0], **grid).item(),
    }


def by_medpy(pred, label, spacing):
    binary = pytest.importorskip("medpy.metric.binary")
    return {
        "dice": binary.dc(pred, label),
        "jaccard": binary.jc(pred, label),
        "hd95_pooled_mm": binary.hd95(pred, label, voxelspacing=spacing),
    }


@pytest.mark.parametrize("reference", [by_distance_transforms, by_monai, by_medpy])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_twenty_real_pairs(pairs, spacing, reference):
    for pred, label in pairs:
        expected = reference(pred, label, spacing)
        found = scored(pred, label, spacing)
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert 0.3 < found["dice"] < 0.99  # neither the same nor strangers


@pytest.mark.parametrize("reference", [by_distance_transforms, by_monai, by_medpy])
@pytest.mark.parametrize("case", ["full", "single voxels", "full and single"])
def test_full_volumes_and_single_voxels(case, reference):
    full, one, other = np.ones((6, 7, 8), bool), np.zeros((6, 7, 8), bool), np.zeros((6, 7, 8), bool)
    one[0, 0, 0], other[3, 4, 0] = True, True
    pred, label = {"full": (full, full), "single voxels": (one, other), "full and single": (full, one)}[case]
    expected, found = reference(pred, label, SPACINGS[1]), scored(pred, label, SPACINGS[1])
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    if case == "single voxels":
        assert found["hd95_mm"] == pytest.approx(math.hypot(3 * 0.5, 4 * 1.0)) and found["dice"] == 0


def test_an_empty_side_has_the_worst_values_and_two_have_none():
    empty, one = np.zeros((6, 7, 8), bool), np.zeros((6, 7, 8), bool)
    one[2, 2, 2] = True
    diagonal = math.hypot(6 * 0.5, 7 * 1.0, 8 * 2.5)
    for pred, label in ((empty, one), (one, empty)):  # where MONAI has nan or infinity, and medpy an error
        found = scored(pred, label, SPACINGS[1])
        assert found["dice"] == found["jaccard"] == found["surface_dice"] == 0
        assert found["hd95_mm"] == found["hd95_pooled_mm"] == found["asd_mm"] == pytest.approx(diagonal)
    assert all(math.isnan(scored(empty, empty, SPACINGS[1])[name]) for name in ("dice", "hd95_mm", "asd_mm"))
