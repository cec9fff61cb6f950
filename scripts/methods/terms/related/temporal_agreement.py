# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor, nn

from ....losses import TemporalAgreementWeight
from ....networks import MovingAverage
from ...step import Pair, Prediction, Step
from ..term import Term

__all__ = ["TemporalAgreement"]


class TemporalAgreement(Term):
    """Each network learns its teacher's classes, the more the better it agrees with its own recent and older past.

    Cross entropy weighted by :class:`~...losses.TemporalAgreementWeight` of the network, its moving average, which is
    the method's teacher, and a slower average of that average, which the term keeps. What carries over from Jacobson et
    al., TrajSSL, arXiv 2409.10901; that time is the training's, not the scene's, is ours.

    Args:
        average: the moving average of the dual network that also is the method's teacher (``teaches`` own).
        decay: of the slower average, in [0, 1).
        weight: factor on the term.
    """

    reads = frozenset({"unlabeled"})
    needs_unlabeled = True
    needs_labeler = True
    weighs = True

    def __init__(self, average: nn.Module, decay: float = 0.99, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.fast = (average,)  # in a tuple: the trainer owns it and checkpoints it
        self.slow = MovingAverage(average, decay)
        self.agreement = TemporalAgreementWeight()

    def forward(self, step: Step) -> Pair[Tensor]:
        labels, slow = step.pseudo_labels, self._slow(step)
        streams = zip(step.lessons(), slow, labels, strict=True)
        losses = []
        for (student, fast), older, own in streams:
            weights = self.agreement(student.logits, fast.logits, older.logits) * own.counted
            losses.append(-(weights * student.log_p.gather(1, own.labels)).mean())
        return Pair(*losses)

    @torch.no_grad()
    def _slow(self, step: Step) -> Pair[Prediction]:
        if self.training:
            self.slow.update_parameters(self.fast[0])
        self.slow.module.eval()
        return Pair(*(Prediction(*output) for output in self.slow.module(step.weak_view)))
