# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from ....losses import DisagreementLearningLoss
from ...step import Pair, Step
from ..term import Term

__all__ = ["Discrepancy"]


class Discrepancy(Term):
    """On mixed images, where the networks disagree: each learns what is right and forgets what is wrong.

    :class:`~...losses.DisagreementLearningLoss` with the labels and pseudo-labels of the method's
    :class:`~..CopyPaste`. Song and Wang, SDCL, MICCAI 2024, arXiv 2409.16728.

    Args:
        mixed: name of the method's term that mixes the images.
        mse_weight, kl_weight: as in the loss.
        weight: factor on the term.
    """

    needs_unlabeled = True

    def __init__(
        self, mixed: str = "copy_paste", mse_weight: float = 0.5, kl_weight: float = 0.05, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        self.mixed = mixed
        self.loss = DisagreementLearningLoss(mse_weight, kl_weight)

    def applies(self, step: Step) -> bool:
        terms = dict(step.method.listed())
        if self.mixed not in terms:
            raise ValueError(f"mixed must be one of the method's terms, {', '.join(terms)}; got {self.mixed}.")
        # the paper's labelled pre-training mixes without it
        return super().applies(step) and step.progress >= cast(Any, terms[self.mixed]).pretraining

    def forward(self, step: Step) -> Pair[Tensor]:
        source = step.terms[self.mixed]
        (a, b), target = step.on_view(source), step.views[source].target
        if any(weight is not None for weight in target.weights):
            raise ValueError(f"The labeler of {self.mixed} lets pseudo-labels count by weights: Discrepancy cannot.")
        of_a, of_b = target.mixed
        return Pair(
            self.loss(a.logits, b.logits, of_a.label, of_a.certain),
            self.loss(b.logits, a.logits, of_b.label, of_b.certain),
        )
