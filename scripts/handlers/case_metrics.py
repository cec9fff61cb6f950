# SPDX-License-Identifier: Apache-2.0
"""How good is each segmentation? Overlap and surface distances per case, network and class, in mm and in voxels."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.metrics import compute_dice, compute_iou
from monai.metrics.utils import get_mask_edges, get_surface_distance

from .atomic import replace_file

__all__ = ["CaseMetrics", "case_path", "foreground_names", "segmentation_metrics", "summarize"]

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
)
COLUMNS = ("case", "network", "class", "name", *MEASURES, "empty_pred", "empty_label", "image")
CONVENTIONS = {
    "dice": "2 |P and L| / (|P| + |L|), fraction",
    "jaccard": "|P and L| / |P or L|, fraction",
    "hd95": "larger of the two directed 95th percentiles of surface distance (the convention of MONAI)",
    "hd95_pooled": "95th percentile of the surface distances of both directions together (the convention of medpy)",
    "asd": "mean of the surface distances of both directions together (MONAI's SurfaceDistanceMetric, symmetric)",
    "surface": "voxels of a mask with a face neighbour outside it; the outside of the volume is outside the mask",
    "units": "*_mm from the voxel spacing of the label; *_voxels with unit spacing",
    "one_side_empty": "Dice and Jaccard 0, distances the diagonal of the volume; counted as empty_pred or empty_label",
    "both_sides_empty": "no value (nan in the table of cases, null here), left out of every statistic, counted",
    "mean_foreground": "mean over the foreground classes with a value, per case; then the statistics over cases",
    "std": "over cases, population (divided by n)",
}


def foreground_names(labels: Mapping[int | str, str] | int) -> dict[int, str]:
    """Names of the foreground classes, {class index: name}, from a datalist's `labels` or a number of classes.

    Args:
        labels: {0: "background", 1: name, ...} (keys may be strings, as in JSON), or the number of classes.

    Raises:
        ValueError: if there is no foreground class.
    """
    if isinstance(labels, int):
        labels = {c: f"class {c}" for c in range(labels)}
    names = {int(c): str(name) for c, name in sorted(labels.items(), key=lambda item: int(item[0])) if int(c) != 0}
    if not names:
        raise ValueError(f"at least one foreground class is needed, got labels={labels}.")
    return names


def class_mask(segmentation: torch.Tensor, index: int) -> torch.Tensor:
    """Boolean mask [*S] of one class, of a one-hot segmentation [C,*S] or an integer class map [1,*S]."""
    if segmentation.shape[0] == 1:
        return segmentation[0] == index
    return segmentation[index] > 0.5


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
    pred: torch.Tensor, label: torch.Tensor, num_classes: int, spacing: Sequence[float]
) -> dict[int, dict[str, float | bool]]:
    """Overlap and surface distances of one case, per foreground class.

    Distances follow two conventions, since tools differ: `hd95_*` is the larger of the two directed 95th percentiles
    (MONAI), `hd95_pooled_*` the 95th percentile of both directions pooled (medpy, what most papers on
    semi-supervised segmentation report). `asd_*` is the mean over both directions pooled, as MONAI's
    `compute_average_surface_distance(symmetric=True)`. If only one of prediction and label is empty, Dice and
    Jaccard are 0 and each distance is the diagonal of the volume, so a network cannot gain by predicting
    nothing; if both are empty all values are nan. Source: ours, on `monai.metrics`.

    Args:
        pred: one-hot [C,*S] or integer class map [1,*S], 2D or 3D.
        label: integer class map [1,*S] (one-hot [C,*S] works as well).
        num_classes: number of classes C with background.
        spacing: voxel size in mm, one number per spatial axis.

    Returns:
        {class index: {"dice", "jaccard": fractions; "hd95_mm", "hd95_pooled_mm", "asd_mm": mm;
        "hd95_voxels", "hd95_pooled_voxels", "asd_voxels": voxels; "empty_pred", "empty_label": bool}}.

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
    return {c: _mask_metrics(class_mask(pred, c), class_mask(label, c), spacing) for c in range(1, num_classes)}


def _mask_metrics(pred: torch.Tensor, label: torch.Tensor, spacing: tuple[float, ...]) -> dict[str, float | bool]:
    """All measures of two boolean masks [*S] on a grid of `spacing` mm."""
    empty_pred, empty_label = not bool(pred.any()), not bool(label.any())
    flags = {"empty_pred": empty_pred, "empty_label": empty_label}
    if empty_pred and empty_label:
        return dict.fromkeys(MEASURES, math.nan) | flags
    if empty_pred or empty_label:
        in_mm = math.hypot(*(n * s for n, s in zip(label.shape, spacing, strict=True)))
        in_voxels = math.hypot(*label.shape)
        penalty = {m: in_mm if m.endswith("_mm") else in_voxels for m in MEASURES[2:]}
        return {"dice": 0.0, "jaccard": 0.0} | penalty | flags

    # Outside the box that holds both masks there is nothing to count and no surface.
    box = _bounding_box(pred | label)
    pred, label = pred[box], label[box]
    batch = {"y_pred": pred[None, None].float(), "y": label[None, None].float()}
    values = {"dice": compute_dice(**batch).item(), "jaccard": compute_iou(**batch).item()}

    edges = get_mask_edges(pred.numpy(), label.numpy(), crop=False)
    in_mm = _distance_statistics(*edges, spacing)
    if len(set(spacing)) == 1:
        in_voxels = {name: value / spacing[0] for name, value in in_mm.items()}
    else:
        in_voxels = _distance_statistics(*edges, (1.0,) * len(spacing))
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


def _distance_statistics(edge_pred: np.ndarray, edge_label: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """HD95 in both conventions and the average symmetric surface distance of two edge masks, in units of spacing."""
    there = get_surface_distance(edge_pred, edge_label, spacing=spacing)
    back = get_surface_distance(edge_label, edge_pred, spacing=spacing)
    both = np.concatenate([there, back])
    return {
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "hd95_pooled": float(np.percentile(both, 95)),
        "asd": float(both.mean(dtype=np.float64)),
    }


def case_path(item: Mapping[str, object], image_key: str = "image") -> str:
    """Path of the file an item was loaded from, its identity across ranks.

    Raises:
        ValueError: if the image carries no file name (it was not loaded by `LoadImaged`).
    """
    meta = getattr(item.get(image_key), "meta", {})
    if "filename_or_obj" not in meta:
        raise ValueError(f'"{image_key}" carries no file name: load it with LoadImaged, as a MetaTensor.')
    return str(meta["filename_or_obj"])


def case_names(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each path: the file's stem, or its place below the common folder where stems repeat."""
    stems = {path: Path(path).name.split(".")[0] for path in paths}
    if len(set(stems.values())) == len(stems):
        return stems
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return {path: (Path(path).parent / stem).relative_to(common).as_posix() for path, stem in stems.items()}


def summarize(rows: Sequence[Mapping[str, object]]) -> dict[str, dict]:
    """Mean, standard deviation and median over cases, per network and class and for the mean foreground.

    Args:
        rows: one dict per case, network and class, as `CaseMetrics` writes them to metrics.csv.

    Returns:
        {network: {"classes": {name: statistics}, "mean_foreground": statistics}}, where statistics holds for every
        measure {"mean", "std", "median", "n"} (null where no case has a value) and the counts "cases", "empty_pred",
        "empty_label" (one side only) and "empty_both".
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
        result[measure]["n"] = len(values)
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
        pred_keys: keys of the segmentations to score; the first is the one the run is judged by.
        names: what each key is called in the files; the default is ensemble, network a, network b.
        label_key: key of the label, a MetaTensor [1,*S], whose `pixdim` gives the spacing in mm.
        image_key: key of the image, a MetaTensor whose file name identifies the case.
        metric_name: name in `engine.state.metrics`.

    Attributes:
        rows: the rows of metrics.csv of the last evaluation, the same on every rank.
        summary: the contents of metrics.json of the last evaluation, the same on every rank.
    """

    def __init__(
        self,
        labels: Mapping[int | str, str] | int,
        output_dir: str | os.PathLike,
        pred_keys: Sequence[str] = ("pred", "pred_a", "pred_b"),
        names: Mapping[str, str] | None = None,
        label_key: str = "label",
        image_key: str = "image",
        metric_name: str = "val_mean_dice",
    ) -> None:
        self.foreground = foreground_names(labels)
        self.output_dir = Path(output_dir)
        self.names = {key: key for key in pred_keys} | {
            "pred": "ensemble",
            "pred_a": "network a",
            "pred_b": "network b",
        }
        self.names |= dict(names or {})
        self.pred_keys = tuple(pred_keys)
        self.label_key = label_key
        self.image_key = image_key
        self.metric_name = metric_name
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
            num_classes = max(self.foreground) + 1
            for key in self.pred_keys:
                scores = segmentation_metrics(item[key], label, num_classes, spacing)
                for index, name in self.foreground.items():
                    row = {"network": self.names[key], "class": index, "name": name, **scores[index]}
                    self.rows.append(row | {"image": case_path(item, self.image_key)})

    def _finish(self, engine: Engine) -> None:
        self.rows = self._gather()
        names = case_names(list(dict.fromkeys(row["image"] for row in self.rows)))
        self.rows = [{"case": names[row["image"]]} | row for row in self.rows]
        self.summary = {
            "cases": len(names),
            "labels": {str(c): name for c, name in self.foreground.items()},
            "networks": summarize(self.rows),
            "conventions": CONVENTIONS,
        }
        judged = self.summary["networks"].get(self.names[self.pred_keys[0]])
        mean = judged["mean_foreground"]["dice"]["mean"] if judged else None
        engine.state.metrics[self.metric_name] = math.nan if mean is None else mean
        if not dist.is_initialized() or dist.get_rank() == 0:
            self._write()

    def _gather(self) -> list[dict[str, object]]:
        """The rows of all ranks, in order of case, one per case, network and class."""
        parts = [self.rows]
        if dist.is_initialized():
            parts = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self.rows)
        unique = {(row["image"], row["network"], row["class"]): row for part in parts for row in part}
        order = {self.names[key]: i for i, key in enumerate(self.pred_keys)}
        return sorted(unique.values(), key=lambda row: (row["image"], order[row["network"]], row["class"]))

    def _write(self) -> None:
        with (
            replace_file(self.output_dir / "metrics.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in r.items()} for r in self.rows)
        with replace_file(self.output_dir / "metrics.json") as temporary:
            temporary.write_text(json.dumps(self.summary, indent=2, allow_nan=False) + "\n")
        logger.info("Scored %d cases: %s, metrics.json", self.summary["cases"], self.output_dir / "metrics.csv")
