# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from torch import Tensor

from ...losses import DisagreementRectificationLoss
from ..step import Pair, Step
from .term import Term

__all__ = ["Rectification"]


class Rectification(Term):
    """Labelled voxels where the networks disagree, and one of them is sure, are learnt once more (term 2).

    :class:`~...losses.DisagreementRectificationLoss` with the networks in both roles. Wang et al., MCF, CVPR 2023; Lu
    et al., arXiv 2509.13084.

    Args:
        threshold, mode: as there.
        weight: alpha.
    """

    reads = frozenset({"labeled"})

    def __init__(self, threshold: float = 0.6, mode: str = "disagreement", weight: float = 0.5) -> None:
        super().__init__(weight)
        self.loss = DisagreementRectificationLoss(threshold=threshold, mode=mode)

    def forward(self, step: Step) -> Pair[Tensor]:
        a, b = (prediction.logits for prediction in step.on_labeled)
        known = (step.label, step.drawn, step.classes)
        return Pair(self.loss(a, b, *known), self.loss(b, a, *known))
