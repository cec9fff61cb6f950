# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.utils import CommonKeys as Keys
from torch import Tensor

from ....losses import CosineConsistencyLoss, RectifiedPseudoSupervisionLoss
from ...step import Pair, Prediction, PseudoLabels, Step, View
from ..term import Term
from ..views import StrongView

__all__ = ["RectifiedViews"]


class RectifiedViews(Term):
    """Each network teaches itself: its prediction of the plain image, rectified, teaches it two varied views.

    Over labelled and unlabelled images alike, the sum over the views of
    :class:`~...losses.UncertaintyWeightedCrossPseudoLoss` with the plain image's prediction as the teacher, and one
    minus the cosine of the two views' probabilities. Zhao et al., RCPS, IEEE JBHI 2023, arXiv 2301.05500.

    Args:
        temperature, gamma: of :class:`~...losses.RectifiedPseudoSupervisionLoss`.
        cosine_weight: factor on the cosine of the views.
        vary: makes a view of images; None: :class:`~..views.StrongView`.
        weight: factor on the term.
    """

    needs_unlabeled = True

    def __init__(
        self,
        temperature: float = 0.5,
        gamma: float = 1.0,
        cosine_weight: float = 1.0,
        vary: StrongView | None = None,
        weight: float = 0.1,
    ) -> None:
        super().__init__(weight)
        self.rectified = RectifiedPseudoSupervisionLoss(temperature, gamma)
        self.cosine = CosineConsistencyLoss()
        self.cosine_weight = cosine_weight
        self.vary = StrongView() if vary is None else vary

    def prepare(self, step: Step) -> View:
        plain = torch.cat([step.labeled[Keys.IMAGE], step.weak_view])
        return View(torch.cat([plain, self.vary(plain), self.vary(plain)]), len(plain))

    def read(self, step: Step) -> Pair[list[Prediction]]:
        """For each network its predictions of the plain images, labelled and then unlabelled, and of both views."""
        count = step.views[self].target
        return Pair(*(_split(prediction, count) for prediction in step.on_view(self)))

    def forward(self, step: Step) -> Pair[Tensor]:
        of_each = self.read(step)
        unlabeled = slice(len(step.label), None)
        labels = [plain.logits[unlabeled].argmax(1, keepdim=True) for plain, _, _ in of_each]
        step.observe(Pair(*(PseudoLabels(own, torch.ones_like(own, dtype=torch.bool)) for own in labels)))
        return Pair(*(self._loss(*predictions) for predictions in of_each))

    def _loss(self, plain: Prediction, one: Prediction, other: Prediction) -> Tensor:
        rectified = self.rectified([one.logits, other.logits], plain.logits)
        return 2 * rectified + self.cosine_weight * self.cosine(one.logits, other.logits)


def _split(prediction: Prediction, count: int) -> list[Prediction]:
    parts = zip(prediction.logits.split(count), prediction.features.split(count), strict=True)
    return [Prediction(logits, features) for logits, features in parts]
