# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.networks import one_hot
from torch import Tensor

from ....losses import AffinityRectifiedLoss
from ...step import Pair, Prediction, Step
from ..term import Term
from .weak_to_strong import WeakToStrong

__all__ = ["Affinity"]

CERTAIN = 20.0
"""Logit of a labelled voxel's class, above 0 of the others: a probability of one, to eight digits."""


class Affinity(Term):
    """Predictions spread along the affinity of features agree between the strong and the weak view.

    :class:`~...losses.AffinityRectifiedLoss`, within each image, or across all images of the step, labelled ones among
    them, whose labels are spread to the unlabelled images by what resembles them. **A reconstruction** from the
    abstract of Xie et al., SemSim, arXiv 2410.13486, which rectifies predictions by the affinity within an image and
    queries labelled features from unlabelled images.

    Args:
        views: name of the method's :class:`~.WeakToStrong` whose one strong view is read. No boxes may be exchanged
            in it (``cutmix`` 0): the views show the same voxels.
        across: whether the affinity is across images.
        stride, temperature: as in the loss.
        weight: factor on the term.
    """

    needs_unlabeled = True

    def __init__(
        self,
        views: str = "weak_to_strong",
        across: bool = False,
        stride: int = 8,
        temperature: float = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.views = views
        self.across = across
        self.reads = frozenset({"labeled"}) if across else frozenset()
        self.loss = AffinityRectifiedLoss(stride, temperature)

    def forward(self, step: Step) -> Pair[Tensor]:
        source = step.terms.get(self.views)
        if not isinstance(source, WeakToStrong) or source.views != 1 or source.cutmix.prob > 0:
            raise ValueError(f"views must name a term with one strong view and no cutmix, got {self.views}.")
        labeled: Pair[Prediction] | Pair[None] = step.on_labeled if self.across else Pair(None, None)
        streams = zip(step.on_view(source), step.teachers, labeled, strict=True)
        return Pair(*(self._loss(student, teacher, known, step) for student, teacher, known in streams))

    def _loss(self, student: Prediction, teacher: Prediction, known: Prediction | None, step: Step) -> Tensor:
        if known is None:
            return self.loss(student.logits, student.features, teacher.logits, teacher.features)
        truth = CERTAIN * one_hot(step.label, known.logits.shape[1]).to(known.logits)
        if step.certain is not None:  # elsewhere the network's own view: there is no other
            truth = torch.where(step.certain, truth, known.logits.detach())
        return self.loss(
            _joined(known.logits, student.logits),
            _joined(known.features, student.features),
            _joined(truth, teacher.logits),
            _joined(known.features, teacher.features),
        )


def _joined(labeled: Tensor, unlabeled: Tensor) -> Tensor:
    """All images [N,C,*S] as one, each behind the other along the first axis: [1,C,N*S0,...]."""
    maps = torch.cat([labeled, unlabeled])
    return maps.transpose(0, 1).flatten(1, 2).unsqueeze(0)
