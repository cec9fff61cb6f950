# SPDX-License-Identifier: Apache-2.0
"""Which scans a person should look at, or label, next: where the networks are unsure, and not ten that are alike."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from scipy.stats import rankdata
from torch import nn

from ..files import save_text
from ..inference import ScanDescriptions, farthest_first
from ..runs.run import Run
from .cases import case_path, foreground_names

__all__ = ["ReviewOrder", "order_of_review"]

logger = logging.getLogger(__name__)


class ReviewOrder:
    """Scores scans without labels and writes review.json, those to label first at its top (ours).

    Attached to a `DualEvaluator` without postprocessing. Of each scan: ``disagreement``, 1 - mean Dice of the
    two networks with each other (1 where neither finds anything); ``entropy``, mean entropy of the ensemble as a
    fraction of its maximum, over the voxels that either takes for a structure; its ``image``. One process only.

    Which scans are alike :class:`~scripts.inference.ScanDescriptions` says.

    Args:
        labels: {class index: name} with background 0.
        output_dir: folder of review.json.
        network: the ensemble that is evaluated.
    """

    def __init__(
        self, labels: Mapping[int | str, str], output_dir: str | os.PathLike, network: nn.Module | None = None
    ) -> None:
        self.foreground = foreground_names(labels)
        self.run = Run(output_dir)
        self.alike = ScanDescriptions(network)
        self.scans: list[dict[str, Any]] = []
        self.descriptions: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _score(self, engine: Engine) -> None:
        for item in engine.state.output:
            a, b, both = (_plain(item[key]) for key in ("pred_a", "pred_b", "pred"))
            maps = a.argmax(0), b.argmax(0)
            probabilities = both.float().softmax(0)
            entropy = torch.special.entr(probabilities).sum(0) / math.log(len(probabilities))
            inside = (maps[0] > 0) | (maps[1] > 0)
            scan = {
                "image": case_path(item),
                "disagreement": 1 - self._agreement(*maps),
                "entropy": float(entropy[inside].mean() if inside.any() else entropy.mean()),
            }
            self.scans.append(scan)
            self.descriptions.append(self.alike.take(_plain(item["image"]), probabilities))

    def _agreement(self, a: torch.Tensor, b: torch.Tensor) -> float:
        values = []
        for c in self.foreground:
            if total := int((a == c).sum()) + int((b == c).sum()):
                values.append(2 * int(((a == c) & (b == c)).sum()) / total)
        return sum(values) / len(values) if values else 0.0

    def _finish(self, engine: Engine) -> None:
        scores = [[scan["disagreement"] for scan in self.scans], [scan["entropy"] for scan in self.scans]]
        listed = [self.scans[i] for i in order_of_review(scores, self.descriptions)]
        save_text(json.dumps(listed, indent=1) + "\n", self.run.review)
        logger.info("Scored %d scans: %s", len(listed), self.run.review)


def order_of_review(scores: Sequence[Sequence[float]], descriptions: Sequence[np.ndarray]) -> list[int]:
    """Numbers of the scans, the one to label first at the front.

    The first is the most uncertain one, by its mean rank over the scores. Each further one has the largest product of
    that rank and of its distance to the nearest scan before it.

    Args:
        scores: for each kind of uncertainty a number a scan, larger is less sure.
        descriptions: for each scan a vector; scans with near vectors are alike.

    Source: ours, see :func:`~scripts.inference.farthest_first`.
    """
    unsure = np.mean([rankdata(score) / len(score) for score in scores], axis=0)
    return [number for number, _ in farthest_first(descriptions, weights=unsure)]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
