# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ...losses import UncertaintyWeightedCrossPseudoLoss
from ...losses.consistency.uncertainty_weighted_cross_pseudo import uncertainty_weighted_cross_pseudo
from ...losses.voxelwise import reduce_voxels
from ..step import Step
from .term import Term

__all__ = ["CrossPseudo"]


class CrossPseudo(Term):
    """Each network learns its teacher's sharpened probabilities, the less the more they diverge (term 3).

    The mean over both networks of :class:`~...losses.UncertaintyWeightedCrossPseudoLoss`. Lu et al., arXiv 2509.13084.

    Args:
        temperature, gamma, detach_weight, hard: as there.
        weight: factor on the term.
    """

    reads = frozenset({"unlabeled"})
    needs_unlabeled = True

    def __init__(
        self,
        temperature: float = 0.5,
        gamma: float = 1.0,
        detach_weight: bool = True,
        hard: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.loss = UncertaintyWeightedCrossPseudoLoss(temperature, gamma, detach_weight, hard)

    def forward(self, step: Step) -> Tensor:
        options = (self.loss.temperature, self.loss.gamma, self.loss.detach_weight, self.loss.hard)
        maps = [
            uncertainty_weighted_cross_pseudo(student.log_p, teacher.log_p, teacher.p, teacher.entropy, *options)
            for student, teacher in step.lessons()
        ]
        return torch.stack([reduce_voxels(one, None, "mean") for one in maps]).mean()
