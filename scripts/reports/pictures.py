# SPDX-License-Identifier: Apache-2.0
"""Pictures to judge a run by: the worst, median and best case with their contours, and the training curves."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from monai.metrics import compute_dice
from monai.transforms import ResampleToMatch

from ..files import replace_file
from ..ranks import gather_on_all, is_main_process
from ..runs.log import RunLog
from ..runs.run import Run
from .cases import (
    Structure,
    annotated_structures,
    case_names,
    case_path,
    ignored_voxels,
    scored_structures,
    structure_mask,
)

__all__ = ["CasePictures", "TrainingCurves", "plot_case", "plot_training_curves"]

# Label and prediction of one class differ in lightness and line style, classes in hue.
LABEL_COLOURS = ("#2ca02c", "#1f77b4", "#bcbd22", "#17becf", "#8c564b", "#9467bd")
PRED_COLOURS = ("#ff4040", "#ffb000", "#ff60d0", "#ff8040", "#f0f000", "#ffffff")
AXIS_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass
class CaseSlices:
    """What a picture of one case needs: three planes through the middle of its label.

    Attributes:
        path: file of the image.
        dice: mean Dice over the foreground classes with a value; nan if there is none.
        planes: [(image, label, pred, horizontal axis, vertical axis, aspect)] with arrays [rows, columns], rows upward.
    """

    path: str
    dice: float
    planes: list[tuple[np.ndarray, np.ndarray, np.ndarray, str, str, float]]


class CasePictures:
    """Draws the worst, median and best case of an evaluation, as pictures/{worst,median,best}.png.

    By mean foreground Dice of the prediction. Each picture shows three planes through the middle of the label, with
    the contours of label and prediction. Only those planes of a case are kept in memory; they are gathered over
    ranks and rank 0 writes. A plane is named by the axes of the scan (R right, A anterior, S superior). Source: ours.

    Args:
        labels: {class index: name} with background 0, as in a datalist, or the number of classes.
        output_dir: the folder in which `pictures` is made.
        pred_key: key of the segmentation to draw, one-hot [C,*S] or a class map [1,*S].
        label_key: key of the label, a MetaTensor; the prediction is on its grid.
        image_key: key of the image, a MetaTensor of which the first channel is drawn, resampled to the label's grid if
            it is on another one (the network's).
        regions: {name: class indices} of a data set that is scored by regions, which are drawn then.
    """

    def __init__(
        self,
        labels: Mapping[int | str, str] | int,
        output_dir: str | os.PathLike,
        pred_key: str = "pred",
        label_key: str = "label",
        image_key: str = "image",
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.structures = scored_structures(labels, regions)
        self.folder = Run(output_dir).pictures
        self.pred_key = pred_key
        self.label_key = label_key
        self.image_key = image_key
        self.cases: dict[str, CaseSlices] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _started(self, engine: Engine) -> None:
        self.cases = {}

    def _keep(self, engine: Engine) -> None:
        for item in engine.state.output:
            image, label, pred = (item[key] for key in (self.image_key, self.label_key, self.pred_key))
            if image.shape[1:] != label.shape[1:] or not torch.allclose(image.affine, label.affine):
                image = ResampleToMatch(padding_mode="zeros")(image, label)
            path = case_path(item, self.image_key)
            drawn, scored = ~ignored_voxels(label), annotated_structures(label, self.structures).values()
            dice = torch.empty(0)
            if scored:  # of regions, none may be annotated in all its classes
                masks = [
                    torch.stack([structure_mask(segmentation, one.classes) & drawn for one in scored])[None].float()
                    for segmentation in (pred, label)
                ]
                dice = compute_dice(*masks, include_background=True, ignore_empty=False)[0]
                dice = dice[masks[0].flatten(2).any(-1)[0] | masks[1].flatten(2).any(-1)[0]]
            arrays = [image[0], *(self._class_map(segmentation) for segmentation in (label, pred))]
            arrays = [array.detach().cpu().numpy() for array in arrays]
            planes = middle_planes(*arrays, label.affine.cpu().numpy())
            self.cases[path] = CaseSlices(path, float(dice.mean()) if len(dice) else math.nan, planes)

    def _class_map(self, segmentation: torch.Tensor) -> torch.Tensor:
        """Small integers [*S] of a one-hot segmentation or a class map; background where nobody has annotated."""
        classes = segmentation[0].clamp(min=0) if segmentation.shape[0] == 1 else segmentation.argmax(0)
        return classes.to(torch.uint8)

    def _finish(self, engine: Engine) -> None:
        cases = {path: case for part in gather_on_all(self.cases) for path, case in part.items()}
        if not is_main_process():
            return
        ranked = sorted((c for c in cases.values() if not math.isnan(c.dice)), key=lambda c: (c.dice, c.path))
        if not ranked:
            return
        names = case_names(list(cases))
        # Of an even number the median is the upper of the two in the middle.
        for rank, case in (("worst", ranked[0]), ("median", ranked[len(ranked) // 2]), ("best", ranked[-1])):
            figure = plot_case(
                case.planes,
                self.structures.values(),
                f"{rank} of {len(ranked)}: {names[case.path]}, Dice {case.dice:.3f}",
            )
            with replace_file(self.folder / f"{rank}.png") as temporary:
                figure.savefig(temporary, dpi=110)


def middle_planes(
    image: np.ndarray, label: np.ndarray, pred: np.ndarray, affine: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, str, str, float]]:
    """The planes through the middle of the label, turned so that right, anterior and superior point right or up.

    The middle is the median position of the label's voxels along each axis (of the prediction's, if there is no
    label), so that each plane meets it.

    Args:
        image: [*S], 2D or 3D; a 2D image is its own only plane.
        label: class map [*S].
        pred: class map [*S].
        affine: [4,4], voxel to world in mm (RAS); of a 2D image [3, 3].

    Returns:
        [(image, label, pred, horizontal axis, vertical axis, aspect)], see `CaseSlices`.
    """
    arrays = [image, label, pred]
    if image.ndim == 2:
        spacing = np.linalg.norm(affine[:2, :2], axis=0)
        arrays = [rows_upward(a, affine) for a in arrays]
        return [(*(a.T.copy() for a in arrays), "first axis", "second axis", float(spacing[1] / spacing[0]))]
    orientation = nib.io_orientation(affine)
    arrays = [nib.apply_orientation(a, orientation) for a in arrays]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
    drawn = next((a for a in arrays[1:] if a.any()), np.ones_like(arrays[1]))
    middle = [int(np.sort(positions)[len(positions) // 2]) for positions in np.nonzero(drawn)]
    planes = []
    for normal, (horizontal, vertical) in ((2, (0, 1)), (1, (0, 2)), (0, (1, 2))):
        cut = tuple(middle[a] if a == normal else slice(None) for a in range(3))
        names = ("{} → {}".format(*AXIS_ENDS[axis]) for axis in (horizontal, vertical))
        aspect = float(spacing[vertical] / spacing[horizontal])
        planes.append((*(a[cut].T.copy() for a in arrays), *names, aspect))
    return planes


def rows_upward(plane: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A 2D image [X, Y] whose second axis points up, as its affine [3, 3] says where that is."""
    return plane[:, ::-1] if affine[1, 1] < 0 else plane


def plot_case(
    planes: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, str, str, float]],
    structures: Collection[Structure],
    title: str,
) -> Figure:
    """A figure of one case: each plane in grey with the contours of label (solid) and prediction (dashed).

    Args:
        planes: as `middle_planes` gives them.
        structures: to draw.
        title: heading of the figure.
    """
    figure = Figure(figsize=(3.6 * len(planes), 4.2), layout="constrained")
    axes = figure.subplots(1, len(planes), squeeze=False)[0]
    for ax, (image, label, pred, horizontal, vertical, aspect) in zip(axes, planes, strict=True):
        low, high = np.percentile(image, (1, 99))
        ax.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect)
        for index, one in enumerate(structures):
            _contour(ax, np.isin(label, one.classes), LABEL_COLOURS[index % len(LABEL_COLOURS)], "solid")
            _contour(ax, np.isin(pred, one.classes), PRED_COLOURS[index % len(PRED_COLOURS)], "dashed")
        rows, columns = image.shape
        ax.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5), xticks=[], yticks=[])
        ax.set(xlabel=horizontal, ylabel=vertical)
    handles = []
    for index, (name, _) in enumerate(structures):
        handles.append(Line2D([], [], color=LABEL_COLOURS[index % len(LABEL_COLOURS)], label=f"{name}, label"))
        colour = PRED_COLOURS[index % len(PRED_COLOURS)]
        handles.append(Line2D([], [], color=colour, linestyle="dashed", label=f"{name}, prediction"))
    figure.suptitle(title)
    figure.legend(handles=handles, loc="outside lower center", ncols=max(2, len(structures)), frameon=False)
    return figure


def _contour(ax: Axes, mask: np.ndarray, colour: str, style: str) -> None:
    """Outline a mask [rows, columns]; the margin closes outlines at the border of the image."""
    if mask.any():
        rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
        outline = np.pad(mask, 1).astype(float)
        ax.contour(columns, rows, outline, [0.5], colors=colour, linestyles=style, linewidths=1.2)


def plot_training_curves(
    log: str | os.PathLike, path: str | os.PathLike, labels: Mapping[int | str, str] | None = None
) -> None:
    """Draw the curves of a run's log: losses, pseudo-labels, validation, each where the log has values.

    Args:
        log: the train_log.jsonl of a run.
        path: the picture to write.
        labels: {class index: name}, to name classes; numbers are shown without it.

    Raises:
        ValueError: if the log has no epoch yet.
    """
    records = RunLog(log).read()
    epochs = [r for r in records if "losses" in r]
    if not epochs:
        raise ValueError(f"{log} has no epoch to draw.")
    labels = {int(c): name for c, name in (labels or {}).items()}
    x = [r["epoch"] for r in epochs]
    losses = {
        name: [r["losses"].get(name) for r in epochs] for name in dict.fromkeys(n for r in epochs for n in r["losses"])
    }
    panels = [("loss, mean over the epoch", x, losses)]
    if any("kept_fraction" in r for r in epochs):
        panels.append(("unlabelled voxels kept, fraction", x, {"kept": [r.get("kept_fraction") for r in epochs]}))
    shares = _class_shares(epochs, labels)
    if shares:
        panels.append(("share of voxels per class", x, shares))
    validations = [r for r in records if "validation" in r]
    if validations:
        metrics = {name: [r["validation"].get(name) for r in validations] for name in validations[0]["validation"]}
        panels.append(("validation", [r["epoch"] for r in validations], metrics))

    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, positions, curves) in zip(axes, panels, strict=True):
        for name, values in curves.items():
            values = [math.nan if v is None else v for v in values]
            style = "dashed" if name.endswith(", labels") else "solid"
            ax.plot(positions, values, label=name, linestyle=style, marker="." if len(values) < 30 else None)
        for i, alarm in enumerate(r["epoch"] for r in records if "alarm" in r):
            ax.axvline(alarm, color="red", linestyle="dotted", label=None if i else "collapse alarm")
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(curves) > 4 else {}
        ax.legend(fontsize="small", **beside)
    # Terms differ by orders of magnitude; those of the unlabelled voxels start near zero.
    axes[0].set_yscale("log", nonpositive="mask")
    with replace_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _class_shares(epochs: Sequence[Mapping[str, object]], labels: Mapping[int, str]) -> dict[str, list[float | None]]:
    """Curves of the share of each foreground class among the pseudo-labels and the labelled voxels."""
    curves: dict[str, list[float | None]] = {}
    for key, kind in (("pseudo_class_share", "pseudo-labels"), ("label_class_share", "labels")):
        shares = [r.get(key) for r in epochs]
        for c in range(1, max((len(s) for s in shares if s is not None), default=0)):
            curves[f"{labels.get(c, f'class {c}')}, {kind}"] = [None if s is None else s[c] for s in shares]
    return curves


class TrainingCurves:
    """Draws pictures/training_curves.png from train_log.jsonl when a training has ended, on rank 0. Source: ours.

    Args:
        output_dir: the run's folder.
        labels: {class index: name}, to name classes.
    """

    def __init__(self, output_dir: str | os.PathLike, labels: Mapping[int | str, str] | None = None) -> None:
        self.run = Run(output_dir)
        self.labels = labels

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after `TrainingConsole`."""
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        if is_main_process():
            plot_training_curves(self.run.log.path, self.run.curves, self.labels)
