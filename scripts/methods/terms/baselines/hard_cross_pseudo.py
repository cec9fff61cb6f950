# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...step import Pair, PseudoLabels, Step
from ..term import Term

__all__ = ["HardCrossPseudo"]


class HardCrossPseudo(Term):
    """Each network learns the other's argmax, on labelled and unlabelled voxels alike.

    Chen et al., "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021, eq. 2 to 4.

    Args:
        weight: factor on the term (1.5 in the paper, for both of its data sets).
    """

    reads = frozenset({"labeled", "unlabeled"})
    needs_unlabeled = True

    def __init__(self, weight: float = 1.5) -> None:
        super().__init__(weight)

    def forward(self, step: Step) -> Pair[Tensor]:
        streams = zip(step.on_labeled, step.on_unlabeled, strict=True)
        a, b = (torch.cat([labeled.logits, unlabeled.logits]).float() for labeled, unlabeled in streams)
        # argmax carries no gradient: each side is a fixed target for the other
        losses = Pair(cross_entropy(a, b.argmax(1)), cross_entropy(b, a.argmax(1)))
        labels = (step.on_unlabeled.a.logits + step.on_unlabeled.b.logits).detach().argmax(1, keepdim=True)
        both = PseudoLabels(labels, torch.ones_like(labels, dtype=torch.bool))
        step.observe(Pair(both, both))
        return losses
