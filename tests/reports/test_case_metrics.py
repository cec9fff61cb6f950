# SPDX-License-Identifier: Apache-2.0
"""Scores of cases: values against hand-computed ones and against scipy, empty sides, files, several ranks."""

import csv
import json
import math
import time

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import binary_erosion, distance_transform_edt

from scripts.annotation import CLASSES, IGNORED
from scripts.reports import CaseMetrics, segmentation_metrics

DISTANCES = ("hd95_mm", "hd95_pooled_mm", "asd_mm", "hd95_voxels", "hd95_pooled_voxels", "asd_voxels")


def box_map(size, *boxes):
    """Class map [1,*S] with class i + 1 in the i-th box, a tuple of (start, stop) per axis."""
    result = torch.zeros(1, *size, dtype=torch.long)
    for i, box in enumerate(boxes):
        result[(0, *(slice(*ends) for ends in box))] = i + 1
    return result


def reference_distances(pred, label, spacing):
    """Surface distances in both directions, by distance transforms of the whole volume."""
    edges = [mask & ~binary_erosion(mask) for mask in (pred, label)]
    fields = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return fields[1][edges[0]], fields[0][edges[1]]


def item(pred, label, path, spacing=(1.0, 1.0, 1.0)):
    """What an evaluator's decollated output holds for one case."""
    affine = torch.diag(torch.tensor([*spacing, 1.0]))
    result = {"label": MetaTensor(label, affine=affine)}
    result["image"] = MetaTensor(torch.zeros_like(label), affine=affine, meta={"filename_or_obj": path})
    return result | {key: MetaTensor(pred, affine=affine) for key in ("pred", "pred_a", "pred_b")}


def evaluate(handler, items):
    engine = Engine(lambda engine, batch: batch)
    handler.attach(engine)
    engine.run([[i] for i in items])
    return engine


def test_overlap_of_two_offset_boxes():
    label = box_map((12, 12, 12), ((2, 6), (2, 6), (2, 6)))
    scores = segmentation_metrics(label.roll(1, dims=1), label, 2, (3.0, 1.0, 2.0))[1]
    assert scores["dice"] == pytest.approx(0.75)  # 2 * 48 / (64 + 64)
    assert scores["jaccard"] == pytest.approx(0.6)  # 48 / 80


@pytest.mark.parametrize(("axis", "millimetres"), [(0, 9.0), (1, 1.5), (2, 6.0)])
def test_two_parallel_planes_are_apart_by_the_spacing_of_their_axis(axis, millimetres):
    # Every voxel of one plane is three voxels from the other: all conventions give the same distance.
    ends = [(0, 9)] * 3
    label, pred = (box_map((9, 9, 9), [*ends[:axis], (x, x + 1), *ends[axis + 1 :]]) for x in (2, 5))
    scores = segmentation_metrics(pred, label, 2, (3.0, 0.5, 2.0))[1]
    assert scores["dice"] == 0
    assert {scores[f"{m}_mm"] for m in ("hd95", "hd95_pooled", "asd")} == {millimetres}
    assert {scores[f"{m}_voxels"] for m in ("hd95", "hd95_pooled", "asd")} == {3.0}


def test_directed_and_pooled_percentiles_differ_where_one_side_has_outliers():
    # 100 voxels agree, 10 more lie 4 voxels away: of the 110 of the prediction 9 % are far, of all 210 only 4.8 %.
    label = box_map((120, 9), ((0, 100), (0, 1)))
    pred = label + box_map((120, 9), ((0, 10), (4, 5)))
    scores = segmentation_metrics(pred, label, 2, (1.0, 2.0))[1]
    assert scores["hd95_mm"] == 8.0 and scores["hd95_voxels"] == 4.0
    assert scores["hd95_pooled_mm"] == 0.0
    assert scores["asd_mm"] == pytest.approx(10 * 8.0 / 210)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 0.7), (3.0, 0.8, 1.3)])
def test_equals_distance_transforms_and_monai(spacing):
    noise = torch.nn.functional.avg_pool3d(
        torch.rand(1, 2, 34, 30, 26, generator=torch.Generator().manual_seed(1)), 5, 1, 2
    )
    pred, label = (noise > 0.5).long().split(1, dim=1)
    pred, label = pred[0], label[0]
    scores = segmentation_metrics(pred, label, 2, spacing)[1]
    for unit, grid in (("mm", spacing), ("voxels", (1.0, 1.0, 1.0))):
        there, back = reference_distances(pred[0].bool().numpy(), label[0].bool().numpy(), grid)
        both = np.concatenate([there, back])
        assert scores[f"hd95_{unit}"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
        assert scores[f"hd95_pooled_{unit}"] == pytest.approx(np.percentile(both, 95), rel=1e-5)
        assert scores[f"asd_{unit}"] == pytest.approx(both.mean(), rel=1e-5)
    monai = {"y_pred": pred[None].float(), "y": label[None].float(), "include_background": True, "spacing": spacing}
    assert scores["hd95_mm"] == pytest.approx(compute_hausdorff_distance(**monai, percentile=95).item(), rel=1e-5)
    assert scores["asd_mm"] == pytest.approx(compute_average_surface_distance(**monai, symmetric=True).item(), rel=1e-5)


def test_one_hot_and_class_map_give_the_same_for_each_class():
    label = box_map((10, 10, 10), ((1, 4), (1, 9), (1, 9)), ((5, 9), (1, 9), (1, 9)))
    pred = label.roll(1, dims=2)
    one_hot = torch.nn.functional.one_hot(pred[0], 3).permute(3, 0, 1, 2).float()
    from_map, from_one_hot = (segmentation_metrics(p, label, 3, (1, 1, 1)) for p in (pred, one_hot))
    assert from_map == from_one_hot
    assert set(from_map) == {1, 2} and from_map[1]["dice"] == pytest.approx(0.875)


@pytest.mark.parametrize("missing", ["pred", "label"])
def test_one_empty_side_costs_the_diagonal(missing):
    full, empty = box_map((3, 4, 12), ((1, 2), (1, 2), (1, 2))), box_map((3, 4, 12))
    pred, label = (empty, full) if missing == "pred" else (full, empty)
    scores = segmentation_metrics(pred, label, 2, (2.0, 2.0, 2.0))[1]
    assert scores["dice"] == scores["jaccard"] == 0
    assert [scores[d] for d in DISTANCES] == pytest.approx([26.0] * 3 + [13.0] * 3)
    assert (scores["empty_pred"], scores["empty_label"]) == (missing == "pred", missing == "label")


def test_both_sides_empty_has_no_value():
    empty = box_map((4, 4, 4))
    scores = segmentation_metrics(empty, empty, 2, (1, 1, 1))[1]
    assert scores["empty_pred"] and scores["empty_label"]
    assert all(math.isnan(scores[m]) for m in ("dice", "jaccard", *DISTANCES))


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(8, 8, 8\) and \(8, 8, 9\)"):
        segmentation_metrics(box_map((8, 8, 8)), box_map((8, 8, 9)), 2, (1, 1, 1))
    with pytest.raises(ValueError, match="one-hot"):
        segmentation_metrics(torch.zeros(4, 8, 8, 8), box_map((8, 8, 8)), 3, (1, 1, 1))
    with pytest.raises(ValueError, match="spacing"):
        segmentation_metrics(box_map((8, 8, 8)), box_map((8, 8, 8)), 2, (1, 1))


def test_a_left_atrium_sized_case_is_fast():
    label = box_map((194, 142, 88), ((50, 150), (30, 110), (10, 70)))
    start = time.process_time()
    segmentation_metrics(label.roll((2, 1), dims=(1, 2)), label, 2, (0.625, 0.625, 1.25))
    assert time.process_time() - start < 2


def test_files_hold_every_case_network_and_class(tmp_path):
    label = box_map((10, 10, 10), ((1, 5), (1, 9), (1, 9)), ((6, 9), (1, 9), (1, 9)))
    half = torch.where(label == 1, 0, label)  # class 1 missed, class 2 exact
    items = [item(label, label, "/data/b/scan.nii.gz", (1, 1, 2)), item(half, label, "/data/a/scan.nii.gz", (1, 1, 2))]
    handler = CaseMetrics({"0": "background", "1": "head", "2": "tail"}, tmp_path, names={"pred_a": "V-Net"})
    engine = evaluate(handler, items)

    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 2
    assert [r["case"] for r in rows[:6]] == ["a/scan"] * 6  # same file names: told apart by their folder
    assert {r["network"] for r in rows} == {"ensemble", "V-Net", "network b"}
    missed = next(r for r in rows if r["case"] == "a/scan" and r["name"] == "head")
    assert (missed["empty_pred"], missed["empty_label"], float(missed["dice"])) == ("True", "False", 0.0)
    assert float(missed["hd95_mm"]) == pytest.approx(math.hypot(10, 10, 20), abs=1e-4)  # spacing from the label

    summary = json.loads((tmp_path / "metrics.json").read_text())
    ensemble = summary["networks"]["ensemble"]
    assert ensemble["classes"]["head"]["dice"] == {"mean": 0.5, "std": 0.5, "median": 0.5, "ci95": [0.0, 1.0], "n": 2}
    assert ensemble["classes"]["head"]["empty_pred"] == 1
    assert ensemble["mean_foreground"]["dice"]["mean"] == 0.75
    assert "medpy" in summary["conventions"]["hd95_pooled"] and summary["cases"] == 2
    assert engine.state.metrics["val_mean_dice"] == 0.75
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.csv", "metrics.json"]  # nothing temporary stays


def test_a_class_without_voxels_is_left_out_of_means_and_counted(tmp_path):
    label = box_map((8, 8, 8), ((1, 5), (1, 5), (1, 5)))
    handler = CaseMetrics(3, tmp_path)
    engine = evaluate(handler, [item(label, label, "/data/x.nii.gz")])
    summary = json.loads((tmp_path / "metrics.json").read_text())["networks"]["ensemble"]
    assert summary["classes"]["class 2"]["dice"] == {"mean": None, "std": None, "median": None, "ci95": None, "n": 0}
    assert summary["classes"]["class 2"]["empty_both"] == summary["mean_foreground"]["empty_both"] == 1
    assert engine.state.metrics["val_mean_dice"] == 1.0


def test_a_second_evaluation_starts_anew(tmp_path):
    label = box_map((8, 8, 8), ((1, 5), (1, 5), (1, 5)))
    handler = CaseMetrics(2, tmp_path)
    for path in ("/data/x.nii.gz", "/data/y.nii.gz"):
        evaluate(handler, [item(label, label, path)])
    assert {row["case"] for row in handler.rows} == {"y"}


def test_an_image_without_a_file_name_is_an_error(tmp_path):
    label = box_map((8, 8, 8))
    nameless = item(label, label, "") | {"image": torch.zeros(1, 8, 8, 8)}
    with pytest.raises(ValueError, match="LoadImaged"):
        evaluate(CaseMetrics(2, tmp_path), [nameless])


def evaluate_as_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    label = box_map((8, 8, 8), ((1, 5), (1, 5), (1, 5)))
    # Three cases on two ranks: the sampler repeats the first one (exact) on rank 1.
    exact, missed = item(label, label, "/data/a.nii.gz"), item(torch.zeros_like(label), label, "/data/b.nii.gz")
    other = item(label, label, "/data/c.nii.gz")
    handler = CaseMetrics(2, f"{folder}/rank{rank}")
    engine = evaluate(handler, [[exact, missed], [exact, other]][rank])
    assert engine.state.metrics["val_mean_dice"] == pytest.approx(2 / 3)
    torch.distributed.destroy_process_group()


def test_ranks_share_their_cases_and_one_writes(tmp_path):
    # Forked, not spawned: the ranks need not import everything again.
    mp.start_processes(evaluate_as_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    with (tmp_path / "rank0" / "metrics.csv").open() as file:
        assert [r["case"] for r in csv.DictReader(file) if r["network"] == "ensemble"] == ["a", "b", "c"]
    assert not (tmp_path / "rank1").exists()


def test_ignored_voxels_are_in_no_measure_and_distances_are_not_known():
    label = box_map((12, 12, 12), ((2, 6), (2, 6), (2, 6)), ((7, 10), (2, 6), (2, 6)))
    pred = label.roll(1, dims=1)
    sparse = label.clone()
    sparse[:, :, ::2] = IGNORED
    scores = segmentation_metrics(pred, sparse, 3, (3.0, 1.0, 2.0))
    drawn = np.arange(12) % 2 == 1
    for c in (1, 2):
        p, t = (one[0].numpy()[:, drawn] == c for one in (pred, label))
        assert scores[c]["dice"] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()))
        assert scores[c]["jaccard"] == pytest.approx((p & t).sum() / (p | t).sum())
        assert scores[c]["volume_error_ml"] == pytest.approx((p.sum() - t.sum()) * 6 / 1000)
        assert all(math.isnan(scores[c][name]) for name in (*DISTANCES, "surface_dice"))
    hidden = segmentation_metrics(
        box_map((4, 4, 4), ((0, 2), (0, 2), (0, 2))), torch.full((1, 4, 4, 4), IGNORED), 2, [1] * 3
    )
    assert hidden[1]["empty_pred"] and hidden[1]["empty_label"] and math.isnan(hidden[1]["dice"])


def test_a_case_is_scored_on_the_classes_that_were_annotated_in_it(tmp_path):
    label = box_map((8, 8, 8), ((1, 4), (1, 4), (1, 4)), ((5, 7), (1, 4), (1, 4)))
    items = [item(label, label, "whole.nii.gz"), item(label, label.where(label == 1, 0), "part.nii.gz")]
    items[1]["label"].meta[CLASSES] = torch.tensor([True, True, False])
    handler = CaseMetrics({0: "background", 1: "x", 2: "y"}, tmp_path)
    evaluate(handler, items)
    network = handler.summary["networks"]["ensemble"]
    assert network["classes"]["x"]["dice"]["n"] == 2 and network["classes"]["y"]["dice"]["n"] == 1
    assert network["classes"]["y"]["dice"]["mean"] == network["mean_foreground"]["dice"]["mean"] == 1.0
    assert network["mean_foreground"]["empty_label"] == network["mean_foreground"]["empty_both"] == 0
    del items[1]["label"].meta[CLASSES]
    evaluate(handler, items)
    assert handler.summary["networks"]["ensemble"]["classes"]["y"]["dice"]["mean"] == 0.5
