# SPDX-License-Identifier: Apache-2.0
"""Slices through the cases that went worst, to leaf through in the report."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.colors import to_rgb
from matplotlib.image import imsave
from monai.transforms import ResampleToMatch
from scipy import ndimage

from ..files import replace_file, save_text
from ..ranks import gather_on_all, is_main_process, world_size
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
from .pictures import LABEL_COLOURS, PRED_COLOURS, rows_upward

__all__ = ["WorstSlices", "slice_strip"]

SLICES = 24
PIXELS = 224
"""Longer side of a slice."""
UNSURE_COLOUR = "#ffff66"


@dataclass
class _Case:
    path: str
    dice: float
    strip: np.ndarray
    frames: int


class WorstSlices:
    """Keeps axial slices of the cases with the lowest Dice as pictures/slices/N.png, with a list in slices.json (ours).

    Each picture is a strip of slices, one below the other: the scan in grey, label and prediction outlined in a pair of
    colours a class, and dots where the two networks differ. The list has case, file name, Dice and number of slices,
    the worst first. Memory is that of these cases only; they are gathered over ranks and rank 0 writes.

    Args:
        labels: {class index: name} with background 0, as in a datalist, or the number of classes.
        output_dir: the folder in which ``pictures`` is made.
        count: of cases.
        regions: {name: class indices} of a data set that is scored by regions, which are drawn then.
    """

    def __init__(
        self,
        labels: Mapping[int | str, str] | int,
        output_dir: str | os.PathLike,
        count: int = 5,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.structures = scored_structures(labels, regions)
        self.run = Run(output_dir)
        self.count = count
        self.cases: list[_Case] = []
        self.paths: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator, after `CaseMetrics`."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _started(self, engine: Engine) -> None:
        self.cases, self.paths = [], []

    def _keep(self, engine: Engine) -> None:
        for item in engine.state.output:
            image, label, pred = (item[key] for key in ("image", "label", "pred"))
            path = case_path(item)
            self.paths.append(path)
            dice = self._dice(pred, label)
            if math.isnan(dice) or (len(self.cases) == self.count and dice >= self.cases[-1].dice):
                continue
            if image.shape[1:] != label.shape[1:] or not torch.allclose(image.affine, label.affine):
                image = ResampleToMatch(padding_mode="zeros")(image, label)
            maps = [self._class_map(item[key]) for key in ("label", "pred")]
            a, b = (self._class_map(item[key]) if key in item else maps[1] for key in ("pred_a", "pred_b"))
            strip, frames = slice_strip(
                image[0].cpu().numpy(), *maps, a != b, label.affine.cpu().numpy(), self.structures.values()
            )
            self._insert(_Case(path, dice, strip, frames))

    def _insert(self, case: _Case) -> None:
        self.cases = sorted([*self.cases, case], key=lambda case: (case.dice, case.path))[: self.count]

    def _dice(self, pred: torch.Tensor, label: torch.Tensor) -> float:
        """Mean over the structures that either side has, of what was annotated; nan where there is none."""
        values, drawn = [], ~ignored_voxels(label)
        for _, classes in annotated_structures(label, self.structures).values():
            p, t = structure_mask(pred, classes) & drawn.to(pred.device), structure_mask(label, classes)
            if total := int(p.sum()) + int(t.sum()):
                values.append(2 * int((p & t.to(p.device)).sum()) / total)
        return sum(values) / len(values) if values else math.nan

    def _class_map(self, segmentation: torch.Tensor) -> np.ndarray:
        classes = segmentation[0].clamp(min=0) if segmentation.shape[0] == 1 else segmentation.argmax(0)
        return classes.to(torch.uint8).cpu().numpy()

    def _finish(self, engine: Engine) -> None:
        if world_size() > 1:
            parts = gather_on_all((self.cases, self.paths))
            unique = {case.path: case for cases, _ in parts for case in cases}
            self.cases, self.paths = [], sorted({path for _, paths in parts for path in paths})
            for case in unique.values():
                self._insert(case)
        if not is_main_process() or not self.cases:
            return
        names = case_names(list(dict.fromkeys(self.paths)))
        listed = []
        for number, case in enumerate(self.cases, 1):
            with replace_file(self.run.slices / f"{number}.png") as temporary:
                imsave(temporary, case.strip)
            entry = {"case": names[case.path], "file": f"{number}.png", "dice": case.dice, "slices": case.frames}
            listed.append(entry | {"width": case.strip.shape[1], "height": case.strip.shape[0] // case.frames})
        save_text(json.dumps(listed, indent=1) + "\n", self.run.slices_file)


def slice_strip(
    image: np.ndarray,
    label: np.ndarray,
    pred: np.ndarray,
    unsure: np.ndarray,
    affine: np.ndarray,
    structures: Collection[Structure],
) -> tuple[np.ndarray, int]:
    """Axial slices through what label or prediction show, one below the other, right pointing right, anterior up.

    Args:
        image: [*S], 2D or 3D; a 2D image is its own only slice.
        label: class map [*S].
        pred: class map [*S].
        unsure: bool [*S], where to put dots.
        affine: [4, 4], voxel to world in mm (RAS); of a 2D image [3, 3].
        structures: to outline.

    Returns:
        Colours [slices * rows, columns, 3] from 0 to 255, at most 24 slices of at most 224 pixels; how many slices.
    """
    arrays = [image, label, pred, unsure]
    if image.ndim == 2:
        arrays = [rows_upward(array, affine)[..., None] for array in arrays]
        spacing = np.linalg.norm(affine[:2, :2], axis=0)
    else:
        orientation = nib.io_orientation(affine)
        arrays = [nib.apply_orientation(array, orientation) for array in arrays]
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
    image, label, pred, unsure = arrays
    shown = np.nonzero(((label > 0) | (pred > 0)).any(axis=(0, 1)))[0]
    first, last = (int(shown[0]), int(shown[-1])) if len(shown) else (0, image.shape[2] - 1)
    positions = np.unique(np.linspace(first, last, SLICES).round().astype(int))
    extent = np.multiply(image.shape[:2], spacing[:2])
    scale = PIXELS / extent.max() * spacing[:2]
    low, high = np.percentile(image, (1, 99))
    frames = [
        _frame(
            (image[..., z] - low) / max(high - low, 1e-6),
            label[..., z],
            pred[..., z],
            unsure[..., z],
            scale,
            structures,
        )
        for z in positions
    ]
    return np.concatenate(frames), len(frames)


def _frame(
    image: np.ndarray,
    label: np.ndarray,
    pred: np.ndarray,
    unsure: np.ndarray,
    scale: np.ndarray,
    structures: Collection[Structure],
) -> np.ndarray:
    """One slice [rows, columns, 3], rows from anterior to posterior."""
    grey = ndimage.zoom(image.astype(np.float32), scale, order=1, mode="nearest")
    colours = np.repeat(grey.clip(0, 1)[..., None] * 255, 3, axis=-1)
    dots = ndimage.zoom(unsure.astype(np.uint8), scale, order=0, mode="nearest").astype(bool)
    rows, columns = np.indices(dots.shape)
    colours[dots & (rows % 4 == 0) & (columns % 4 == 0)] = np.multiply(to_rgb(UNSURE_COLOUR), 255)
    for segmentation, palette in ((label, LABEL_COLOURS), (pred, PRED_COLOURS)):
        fine = ndimage.zoom(segmentation, scale, order=0, mode="nearest")
        for index, (_, classes) in enumerate(structures):
            mask = np.isin(fine, classes)
            colours[mask & ~ndimage.binary_erosion(mask)] = np.multiply(to_rgb(palette[index % len(palette)]), 255)
    return colours.transpose(1, 0, 2)[::-1].round().astype(np.uint8)
