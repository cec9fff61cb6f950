# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ....losses import VoxelContrastiveLoss
from ...step import Pair, Prediction, Step, View
from ..related.heads import Heads
from ..term import Term
from ..views import StrongView

__all__ = ["SelfSupervisedContrast"]


class SelfSupervisedContrast(Term):
    """Without labels or predictions: a voxel resembles itself in another view, not the voxels of other images.

    :class:`~...losses.VoxelContrastiveLoss` with the image as its voxels' class. A first phase on the unlabelled scans
    alone. Chen et al., SimCLR, ICML 2020, arXiv 2002.05709; by voxel instead of by image is ours, so that the decoder
    learns, too.

    Args:
        feature_channels: width of both networks' features.
        channels: width of the projection.
        temperature, num_negatives: as in the loss.
        vary: makes a view of images; None: :class:`~..views.StrongView`.
        weight: factor on the term.
    """

    needs_unlabeled = True

    def __init__(
        self,
        feature_channels: int,
        channels: int = 32,
        temperature: float = 0.1,
        num_negatives: int = 400,
        vary: StrongView | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.heads = Heads(feature_channels, channels)
        self.loss = VoxelContrastiveLoss(temperature, num_negatives)
        self.vary = StrongView() if vary is None else vary

    def prepare(self, step: Step) -> View:
        plain = step.weak_view
        return View(torch.cat([self.vary(plain), self.vary(plain)]), len(plain))

    def forward(self, step: Step) -> Pair[Tensor]:
        a, b = step.on_view(self)
        return Pair(self._loss("a", a, step), self._loss("b", b, step))

    def _loss(self, network: str, prediction: Prediction, step: Step) -> Tensor:
        one, other = self.heads.project(network, prediction.features).split(step.views[self].target)
        images = torch.arange(len(one), device=one.device).view(-1, *[1] * (one.dim() - 1))
        return self.loss(one, other, images.expand(-1, 1, *one.shape[2:]))
