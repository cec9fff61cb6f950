# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ....losses import PartialDiceLoss
from ...step import Pair, PseudoLabels, Step
from ..term import Term

__all__ = ["MutualCorrection"]


class MutualCorrection(Term):
    """The network that does better on this step's labels teaches the other on the unlabelled images.

    ``mean ||p_loser - sharpen(p_winner)||^2`` where the winner has the smaller Dice loss on the labelled voxels, and
    ``sharpen(p) ~ p^(1/T)``. Wang et al., "MCF: Mutual Correction Framework for Semi-Supervised Medical Image
    Segmentation", CVPR 2023, with the settings of its code for the left atrium.

    Args:
        temperature: T, of the winner's pseudo-labels.
        weight: factor on the term.
    """

    reads = frozenset({"labeled", "unlabeled"})
    needs_unlabeled = True

    def __init__(self, temperature: float = 0.1, weight: float = 0.1) -> None:
        super().__init__(weight)
        self.temperature = temperature
        self.score = PartialDiceLoss(include_background=False, batch=True)

    def forward(self, step: Step) -> Pair[Tensor]:
        scores = [step.against_labels(self.score, one.logits.detach().float()) for one in step.on_labeled]
        # 1 where a wins, as a number: no waiting for the device, and the loser's term alone has a gradient
        a_wins = (scores[0] < scores[1]).float()
        a, b = (one.logits.float() for one in step.on_unlabeled)
        labels = torch.where(a_wins > 0, a, b).argmax(1, keepdim=True)
        both = PseudoLabels(labels, torch.ones_like(labels, dtype=torch.bool))
        step.observe(Pair(both, both))
        return Pair((1 - a_wins) * self._distance(a, b), a_wins * self._distance(b, a))

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = (teacher.detach() / self.temperature).softmax(1)
        return (student.softmax(1) - target).square().mean()
