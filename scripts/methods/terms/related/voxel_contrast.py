# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import cast

from torch import Tensor

from ....losses import VoxelContrastiveLoss
from ...step import Pair, Prediction, Step
from ..term import Term
from .heads import Heads
from .rectified_views import RectifiedViews

__all__ = ["VoxelContrast"]


class VoxelContrast(Term):
    """A voxel's projected features resemble themselves in the other view, not other classes in other images.

    :class:`~...losses.VoxelContrastiveLoss` on the two views of the method's
    :class:`~.RectifiedViews`, labelled images among them, with the classes that the network sees in the plain image.
    Zhao et al., RCPS, IEEE JBHI 2023, arXiv 2301.05500.

    Args:
        feature_channels: width of both networks' features.
        views: name of the method's term that makes the views.
        channels: width of the projection.
        temperature, num_negatives: as in the loss.
        weight: factor on the term.
    """

    needs_unlabeled = True

    def __init__(
        self,
        feature_channels: int,
        views: str = "rectified",
        channels: int = 32,
        temperature: float = 0.1,
        num_negatives: int = 400,
        weight: float = 0.1,
    ) -> None:
        super().__init__(weight)
        self.heads = Heads(feature_channels, channels)
        self.views = views
        self.loss = VoxelContrastiveLoss(temperature, num_negatives)

    def forward(self, step: Step) -> Pair[Tensor]:
        if self.views not in step.terms:
            raise ValueError(f"views must be one of the method's terms, {', '.join(step.terms)}; got {self.views}.")
        of_a, of_b = cast(RectifiedViews, step.terms[self.views]).read(step)
        return Pair(self._loss("a", *of_a), self._loss("b", *of_b))

    def _loss(self, network: str, plain: Prediction, one: Prediction, other: Prediction) -> Tensor:
        first, second = (self.heads.project(network, view.features) for view in (one, other))
        return self.loss(first, second, plain.logits.detach().argmax(1, keepdim=True))
