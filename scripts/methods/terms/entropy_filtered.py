# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ...losses.voxelwise import reduce_voxels
from ..step import Prediction, PseudoLabels, Step
from .term import Term

__all__ = ["EntropyFiltered"]


class EntropyFiltered(Term):
    """Cross entropy with the pseudo-labels, over the voxels that count, summed over both networks (term 4).

    As :class:`~...losses.EntropyFilteredPseudoLoss`. Weights lower it, while it is divided by the number of voxels. Lu
    et al., arXiv 2509.13084.
    """

    reads = frozenset({"unlabeled"})
    needs_unlabeled = True
    needs_labeler = True
    weighs = True

    def forward(self, step: Step) -> Tensor:
        pairs = zip(step.on_unlabeled, step.pseudo_labels, strict=True)
        return torch.stack([self._loss(student, own) for student, own in pairs]).sum()

    @staticmethod
    def _loss(student: Prediction, own: PseudoLabels) -> Tensor:
        log_p = student.log_p.gather(1, own.labels)
        return -reduce_voxels(log_p if own.weight is None else own.weight * log_p, own.mask, "mean")
