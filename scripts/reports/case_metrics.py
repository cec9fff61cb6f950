# SPDX-License-Identifier: Apache-2.0
"""How good is each segmentation? Overlap and surface distances per case, network and class, in mm and in voxels."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.metrics import compute_dice, compute_iou
from monai.metrics.utils import get_mask_edges, get_surface_distance

from ..files import replace_file
from ..ranks import gather_on_all, is_main_process
from ..runs.run import Run
from .cases import (
    annotated_structures,
    case_names,
    case_path,
    foreground_names,
    ignored_voxels,
    scored_structures,
    structure_mask,
)
from .statistics import bootstrap_interval

__all__ = ["CaseMetrics", "scores_summary", "segmentation_metrics", "summarize", "write_scores"]

logger = logging.getLogger(__name__)

MEASURES = (
    "dice",
    "jaccard",
    "hd95_mm",
    "hd95_pooled_mm",
    "asd_mm",
    "hd95_voxels",
    "hd95_pooled_voxels",
    "asd_voxels",
    "surface_dice",
    "volume_error_ml",
)
SURFACE_MEASURES = tuple(name for name in MEASURES if name.startswith(("hd95", "asd", "surface")))
COLUMNS = ("case", "network", "class", "name", *MEASURES, "agreement", "empty_pred", "empty_label", "image")
NOT_ANNOTATED = dict.fromkeys(MEASURES, math.nan) | {"empty_pred": False, "empty_label": False}
TOLERANCE_MM = 1.0
"""How far a surface may be off and still be right, for the surface Dice."""
CONVENTIONS = {
    "dice": "2 |P and L| / (|P| + |L|), fraction",
    "jaccard": "|P and L| / |P or L|, fraction",
    "hd95": "larger of the two directed 95th percentiles of surface distance (the convention of MONAI)",
    "hd95_pooled": "95th percentile of the surface distances of both directions together (the convention of medpy)",
    "asd": "mean of the surface distances of both directions together (MONAI's SurfaceDistanceMetric, symmetric)",
    "surface_dice": "share of both surfaces that lies within a tolerance of the other one (MONAI's SurfaceDiceMetric)",
    "volume_error_ml": "volume of the prediction minus that of the label",
    "agreement": "Dice of the two networks with each other, no label involved: what it predicts is in the report",
    "ci95": "of the mean over cases, percentile bootstrap with 2000 draws from a fixed seed; null for a single case",
    "surface": "voxels of a mask with a face neighbour outside it; the outside of the volume is outside the mask",
    "units": "*_mm from the voxel spacing of the label; *_voxels with unit spacing",
    "one_side_empty": "Dice and Jaccard 0, distances the diagonal of the volume; counted as empty_pred or empty_label",
    "ignored": "voxels that nobody has annotated are in no measure; a label with such voxels has no surface to measure "
    "distances from, so these are left out like those of two empty sides",
    "not_annotated": "a class that was not annotated in a case has no value there, and is in no mean",
    "both_sides_empty": "no value (nan in the table of cases, null here), left out of every statistic, counted",
    "mean_foreground": "mean over the foreground classes with a value, per case; then the statistics over cases",
    "std": "over cases, population (divided by n)",
}


def check_shapes(pred: torch.Tensor, label: torch.Tensor, num_classes: int) -> None:
    """Raise a ValueError unless both are [1,*S] or [num_classes,*S] with the same *S."""
    for name, value in (("pred", pred), ("label", label)):
        if value.shape[0] not in (1, num_classes):
            raise ValueError(
                f"{name} must be one-hot [{num_classes},*S] or a class map [1,*S], got shape {tuple(value.shape)}."
            )
    if pred.shape[1:] != label.shape[1:]:
        raise ValueError(f"pred and label differ in size: {tuple(pred.shape[1:])} and {tuple(label.shape[1:])}.")


def segmentation_metrics(
    pred: torch.Tensor,
    label: torch.Tensor,
    num_classes: int,
    spacing: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
    structures: Mapping[int, Sequence[int]] | None = None,
) -> dict[int, dict[str, float | bool]]:
    """Overlap and surface distances of one case, per foreground class, or per region.

    Distances follow two conventions, since tools differ: `hd95_*` is the larger of the two directed 95th percentiles
    (MONAI), `hd95_pooled_*` the 95th percentile of both directions pooled (medpy, what most papers on
    semi-supervised segmentation report). `asd_*` is the mean over both directions pooled, as MONAI's
    `compute_average_surface_distance(symmetric=True)`. If only one of prediction and label is empty, Dice and
    Jaccard are 0 and each distance is the diagonal of the volume, so a network cannot gain by predicting
    nothing; if both are empty all values are nan. Voxels of the label that nobody has annotated are left out of Dice,
    Jaccard and volume error; distances and surface Dice are nan then, as part of the surface is not known. Source:
    ours, on `monai.metrics`.

    Args:
        pred: one-hot [C,*S] or integer class map [1,*S], 2D or 3D.
        label: integer class map [1,*S] (one-hot [C,*S] works as well); `IGNORED` (-1) where nobody has annotated.
        num_classes: number of classes C with background.
        spacing: voxel size in mm, one number per spatial axis.
        tolerance_mm: how far a surface may be off and still be right, for the surface Dice.
        structures: {number: class indices} of unions of classes to score; default: each foreground class.

    Returns:
        {class index, or number of the structure: {"dice", "jaccard": fractions; "hd95_mm", "hd95_pooled_mm", "asd_mm":
        mm; "hd95_voxels", "hd95_pooled_voxels", "asd_voxels": voxels; "surface_dice": fraction; "volume_error_ml":
        millilitres, of a 2D image square centimetres; "empty_pred", "empty_label": bool}}.

    Raises:
        ValueError: if shapes do not fit each other, `num_classes` or `spacing`.

    Example:
        >>> label = torch.zeros(1, 8, 8, 8, dtype=torch.long)
        >>> label[0, 2:6, 2:6, 2:6] = 1
        >>> segmentation_metrics(label.roll(1, dims=1), label, 2, spacing=(3.0, 1.0, 1.0))[1]["hd95_mm"]
        3.0
    """
    pred, label = (x.as_tensor() if isinstance(x, MetaTensor) else x for x in (pred, label))
    pred, label = pred.detach().cpu(), label.detach().cpu()
    check_shapes(pred, label, num_classes)
    spacing = tuple(float(s) for s in spacing)
    if len(spacing) != label.ndim - 1 or min(spacing) <= 0:
        raise ValueError(f"spacing must be {label.ndim - 1} positive numbers (mm), got {spacing}.")
    ignored = ignored_voxels(label)
    structures = {c: (c,) for c in range(1, num_classes)} if structures is None else structures
    masks = {c: (structure_mask(pred, own), structure_mask(label, own)) for c, own in structures.items()}
    if not ignored.any():
        return {c: _mask_metrics(*both, spacing, tolerance_mm) for c, both in masks.items()}
    masks = {c: (found & ~ignored, true) for c, (found, true) in masks.items()}
    unknown = dict.fromkeys(SURFACE_MEASURES, math.nan)
    return {c: _mask_metrics(*both, spacing, tolerance_mm) | unknown for c, both in masks.items()}


def _mask_metrics(
    pred: torch.Tensor, label: torch.Tensor, spacing: tuple[float, ...], tolerance_mm: float
) -> dict[str, float | bool]:
    """All measures of two boolean masks [*S] on a grid of `spacing` mm."""
    empty_pred, empty_label = not bool(pred.any()), not bool(label.any())
    flags = {"empty_pred": empty_pred, "empty_label": empty_label}
    if empty_pred and empty_label:
        return dict.fromkeys(MEASURES, math.nan) | flags
    voxel = math.prod(spacing) / 10 ** len(spacing)
    volume_error = float(int(pred.sum()) - int(label.sum())) * voxel
    if empty_pred or empty_label:
        in_mm = math.hypot(*(n * s for n, s in zip(label.shape, spacing, strict=True)))
        in_voxels = math.hypot(*label.shape)
        penalty = {m: in_mm if m.endswith("_mm") else in_voxels for m in MEASURES if "hd95" in m or "asd" in m}
        return {"dice": 0.0, "jaccard": 0.0, "surface_dice": 0.0, "volume_error_ml": volume_error} | penalty | flags

    # Outside the box that holds both masks there is nothing to count and no surface.
    box = _bounding_box(pred | label)
    pred, label = pred[box], label[box]
    batch = {"y_pred": pred[None, None].float(), "y": label[None, None].float()}
    values = {"dice": compute_dice(**batch).item(), "jaccard": compute_iou(**batch).item()}

    edges = get_mask_edges(pred.numpy(), label.numpy(), crop=False)
    in_mm = _distance_statistics(*edges, spacing, tolerance_mm)
    values |= {"surface_dice": in_mm.pop("within"), "volume_error_ml": volume_error}
    if len(set(spacing)) == 1:
        in_voxels = {name: value / spacing[0] for name, value in in_mm.items()}
    else:
        in_voxels = _distance_statistics(*edges, (1.0,) * len(spacing), tolerance_mm)
        del in_voxels["within"]
    values |= {f"{name}_mm": value for name, value in in_mm.items()}
    values |= {f"{name}_voxels": value for name, value in in_voxels.items()}
    return values | flags


def _bounding_box(mask: torch.Tensor) -> tuple[slice, ...]:
    """Slices of the smallest box that holds a non-empty boolean mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        inside = mask.any(dim=others).nonzero()
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(box)


def _distance_statistics(
    edge_pred: np.ndarray, edge_label: np.ndarray, spacing: Sequence[float], tolerance: float
) -> dict[str, float]:
    """HD95 in both conventions and the average symmetric surface distance of two edge masks, in units of spacing; which
    share of both edges is ``within`` the tolerance of the other one.
    """
    there = get_surface_distance(edge_pred, edge_label, spacing=spacing)
    back = get_surface_distance(edge_label, edge_pred, spacing=spacing)
    both = np.concatenate([there, back])
    return {
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "hd95_pooled": float(np.percentile(both, 95)),
        "asd": float(both.mean(dtype=np.float64)),
        "within": float(np.mean(both <= tolerance)),
    }


def summarize(rows: Sequence[Mapping[str, object]]) -> dict[str, dict]:
    """Mean, standard deviation and median over cases, per network and class and for the mean foreground.

    Args:
        rows: one dict per case, network and class, as `CaseMetrics` writes them to metrics.csv.

    Returns:
        {network: {"classes": {name: statistics}, "mean_foreground": statistics}}, where statistics holds for every
        measure {"mean", "std", "median", "n", "ci95"} (null where no case has a value) and the counts "cases",
        "empty_pred", "empty_label" (one side only) and "empty_both".
    """
    networks: dict[str, dict] = {}
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        classes = {
            name: _statistics([row for row in own if row["name"] == name])
            for name in dict.fromkeys(row["name"] for row in own)
        }
        cases = [_foreground_mean([row for row in own if row["image"] == i]) for i in {r["image"]: 0 for r in own}]
        networks[network] = {"classes": classes, "mean_foreground": _statistics(cases)}
        counts = ("empty_pred", "empty_label", "empty_both")
        networks[network]["mean_foreground"] |= {k: sum(c[k] for c in classes.values()) for k in counts}
    return networks


def _foreground_mean(rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """One row that holds the mean over the classes that have a value."""
    means = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows if not math.isnan(row[measure])]
        means[measure] = float(np.mean(values)) if values else math.nan
    return means | {"empty_pred": False, "empty_label": False}


def _statistics(rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Statistics over cases of each measure, and how many cases had an empty side."""
    result: dict[str, object] = {"cases": len(rows)}
    for measure in MEASURES:
        values = np.array([row[measure] for row in rows], dtype=float)
        values = values[~np.isnan(values)]
        statistics = {"mean": np.mean, "std": np.std, "median": np.median}
        result[measure] = {k: float(f(values)) if len(values) else None for k, f in statistics.items()}
        result[measure] |= {"n": len(values), "ci95": bootstrap_interval(values)}
    sides = [(bool(row["empty_pred"]), bool(row["empty_label"])) for row in rows]
    return result | {
        "empty_pred": sides.count((True, False)),
        "empty_label": sides.count((False, True)),
        "empty_both": sides.count((True, True)),
    }


class CaseMetrics:
    """Scores every case of an evaluation and writes metrics.csv (each case) and metrics.json (the summary).

    Attached to an evaluator whose `engine.state.output` is a decollated list of dicts. Cases are gathered over all
    ranks; one that a distributed sampler repeated to fill a batch counts once. Rank 0 writes, each file through a
    temporary name. Every rank receives the mean foreground Dice of the first network in `engine.state.metrics`.
    Source: ours; see `segmentation_metrics` for the conventions.

    Args:
        labels: {class index: name} with background 0, as in a datalist, or the number of classes.
        output_dir: folder of metrics.csv and metrics.json.
        pred_keys: keys of the segmentations to score; the first is the one the run is judged by. Of the others, those
            that an evaluation does not have are left out.
        names: what each key is called in the files; the default is ensemble, network a, network b, and ensemble,
            supervised part.
        label_key: key of the label, a MetaTensor [1,*S], whose `pixdim` gives the spacing in mm.
        image_key: key of the image, a MetaTensor whose file name identifies the case.
        metric_name: name in `engine.state.metrics`.
        tolerance_mm: how far a surface may be off and still be right, for the surface Dice.
        regions: {name: class indices} of a data set that is scored by regions, which then stand in the place of the
            classes, numbered from 1 on.

    Attributes:
        rows: the rows of metrics.csv of the last evaluation, the same on every rank.
        summary: the contents of metrics.json of the last evaluation, the same on every rank.
    """

    def __init__(
        self,
        labels: Mapping[int | str, str] | int,
        output_dir: str | os.PathLike,
        pred_keys: Sequence[str] = ("pred", "pred_supervised", "pred_a", "pred_b"),
        names: Mapping[str, str] | None = None,
        label_key: str = "label",
        image_key: str = "image",
        metric_name: str = "val_mean_dice",
        tolerance_mm: float = TOLERANCE_MM,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.num_classes = max(foreground_names(labels)) + 1
        self.structures = scored_structures(labels, regions)
        self.run = Run(output_dir)
        self.names = {key: key for key in pred_keys} | {
            "pred": "ensemble",
            "pred_supervised": "ensemble, supervised part",
            "pred_a": "network a",
            "pred_b": "network b",
        }
        self.names |= dict(names or {})
        self.pred_keys = tuple(pred_keys)
        self.label_key = label_key
        self.image_key = image_key
        self.metric_name = metric_name
        self.tolerance_mm = tolerance_mm
        self.rows: list[dict[str, object]] = []
        self.summary: dict[str, object] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _started(self, engine: Engine) -> None:
        self.rows = []

    def _score(self, engine: Engine) -> None:
        for item in engine.state.output:
            label = item[self.label_key]
            if not isinstance(label, MetaTensor):
                raise ValueError(f'"{self.label_key}" must be a MetaTensor: its affine gives the spacing in mm.')
            spacing = label.pixdim[: label.ndim - 1].tolist()
            agreement = self._agreement(item)
            annotated = annotated_structures(label, self.structures)
            unions = {number: one.classes for number, one in self.structures.items()}
            for key in (self.pred_keys[0], *(key for key in self.pred_keys[1:] if key in item)):
                scores = segmentation_metrics(item[key], label, self.num_classes, spacing, self.tolerance_mm, unions)
                for index, one in self.structures.items():
                    values = scores[index] if index in annotated else NOT_ANNOTATED
                    row = {"network": self.names[key], "class": index, "name": one.name, **values}
                    row["agreement"] = agreement[index]
                    self.rows.append(row | {"image": case_path(item, self.image_key)})

    def _agreement(self, item: Mapping[str, torch.Tensor]) -> dict[int, float]:
        """Dice of the two networks' predictions by structure; nan without two, or where both are empty."""
        if len(self.pred_keys) < 3:
            return dict.fromkeys(self.structures, math.nan)
        a, b = (
            torch.stack([structure_mask(item[key], one.classes) for one in self.structures.values()])[None].float()
            for key in self.pred_keys[-2:]
        )
        return dict(zip(self.structures, compute_dice(a, b, include_background=True)[0].tolist(), strict=True))

    def _finish(self, engine: Engine) -> None:
        self.rows = self._gather()
        names = case_names(list(dict.fromkeys(row["image"] for row in self.rows)))
        self.rows = [{"case": names[row["image"]]} | row for row in self.rows]
        names = {number: one.name for number, one in self.structures.items()}
        self.summary = scores_summary(self.rows, names, self.tolerance_mm)
        judged = self.summary["networks"].get(self.names[self.pred_keys[0]])
        mean = judged["mean_foreground"]["dice"]["mean"] if judged else None
        engine.state.metrics[self.metric_name] = math.nan if mean is None else mean
        if is_main_process():
            write_scores(self.run, self.rows, self.summary)

    def _gather(self) -> list[dict[str, object]]:
        """The rows of all ranks, in order of case, one per case, network and class."""
        rows = itertools.chain(*gather_on_all(self.rows))
        unique = {(row["image"], row["network"], row["class"]): row for row in rows}
        order = {self.names[key]: i for i, key in enumerate(self.pred_keys)}
        return sorted(unique.values(), key=lambda row: (row["image"], order[row["network"]], row["class"]))


def scores_summary(
    rows: Sequence[Mapping[str, object]], foreground: Mapping[int, str], tolerance_mm: float = TOLERANCE_MM
) -> dict[str, object]:
    """The contents of metrics.json.

    Args:
        rows: of metrics.csv.
        foreground: {class index: name}.
        tolerance_mm: of the surface Dice.
    """
    return {
        "cases": len({row["image"] for row in rows}),
        "labels": {str(c): name for c, name in foreground.items()},
        "networks": summarize(rows),
        "conventions": {**CONVENTIONS, "surface_tolerance_mm": tolerance_mm},
    }


def write_scores(run: Run, rows: Sequence[Mapping[str, object]], summary: Mapping[str, object]) -> None:
    """Write metrics.csv and metrics.json.

    Args:
        run: folder to write to.
        rows: of every case, network and class.
        summary: of :func:`scores_summary`.
    """
    with replace_file(run.scores_file) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in r.items()} for r in rows)
    with replace_file(run.summary_file) as temporary:
        temporary.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    logger.info("Scored %d cases: %s, %s", summary["cases"], run.scores_file, run.summary_file.name)
