# SPDX-License-Identifier: Apache-2.0
"""Does a probability of 0.8 mean right in 8 of 10 voxels? And by which temperature would it?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.calibration import calibration_binning
from monai.transforms import Transform
from scipy.ndimage import find_objects
from torch import Tensor

from ..inference import temper
from ..losses.voxelwise import plain
from ..reports.cases import annotated_classes

__all__ = ["TEMPERATURES", "NoteCalibrationd", "calibration", "fit_temperature"]

TEMPERATURES = tuple(float(t) for t in np.round(2.0 ** np.linspace(-2, 3, 21), 4))
"""From 0.25, surer, to 8, less sure; 1 is among them."""
BINS = 15
CERTAIN = 0.99
"""Background of at least this probability that is background does not count: it is most of any scan."""


def calibration(probabilities: Tensor, label: Tensor) -> dict[str, list[float]]:
    """How far the probabilities of one scan are off, at each of :data:`TEMPERATURES` (ours).

    It looks at the box around all voxels that are, or may be (with 1 %), a structure.

    Args:
        probabilities: [C, *S].
        label: class numbers [*S]; voxels below 0 are not annotated, and left out.

    Returns:
        ``ece``: expected calibration error, mean over the foreground classes in the label (as MONAI's
        CalibrationErrorMetric, 15 bins); ``nll``: mean negative log-likelihood. Empty when there is no such voxel.
    """
    boxes = find_objects(((probabilities[0] < CERTAIN) | (label > 0)).to(torch.uint8).numpy())
    if not boxes:
        return {"ece": [], "nll": []}
    probabilities, label = probabilities[(slice(None), *boxes[0])], label[boxes[0]].long()
    annotated = label >= 0
    if not bool(annotated.any()):
        return {"ece": [], "nll": []}
    probabilities, label = probabilities[:, annotated], label[annotated]
    classes = torch.unique(label)
    classes = classes[classes > 0]
    truth = torch.nn.functional.one_hot(label, len(probabilities)).movedim(-1, 0)
    found: dict[str, list[float]] = {"ece": [], "nll": []}
    for temperature in TEMPERATURES:
        tempered = temper(probabilities, temperature)
        chosen = classes if len(classes) else torch.arange(1, len(probabilities))
        found["ece"].append(_expected_error(tempered[chosen], truth[chosen].float()))
        found["nll"].append(float(-tempered.gather(0, label[None]).clamp_min(1e-7).log().mean()))
    return found


def _expected_error(probabilities: Tensor, truth: Tensor) -> float:
    """Expected calibration error, mean over the classes, of [C, N] voxels of one scan.

    MONAI's CalibrationErrorMetric cannot be asked for a single scan where several processes evaluate: it waits for the
    other processes' scans, of which there may be fewer.
    """
    said, true, counts = calibration_binning(probabilities[None], truth[None], BINS)
    errors = (torch.nan_to_num(said - true).abs() * counts).sum(-1) / counts.sum(-1)
    return float(errors.mean())


def fit_temperature(likelihoods: Sequence[Sequence[float]]) -> float:
    """The temperature of the least mean negative log-likelihood.

    Args:
        likelihoods: for each scan ``nll`` of :func:`calibration`.
    """
    return TEMPERATURES[int(np.argmin(np.mean(np.asarray(likelihoods, dtype=float), axis=0)))]


class NoteCalibrationd(Transform):
    """Notes ``calibration`` of an item: of its probabilities ``pred`` [C, *S] and its ``label`` [1, *S] (ours).

    A scan of which not all classes were annotated has none.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        structures = range(1, len(data["pred"]))
        if len(annotated_classes(data["label"], structures)) < len(structures):  # what of a class's voxels is unknown
            return {**data, "calibration": {"ece": [], "nll": []}}
        pred, label = plain(data["pred"]), plain(data["label"])
        return {**data, "calibration": calibration(pred.cpu(), label[0].cpu())}
