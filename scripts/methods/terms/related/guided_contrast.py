# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from functools import partial
from typing import cast

from torch import Tensor, nn

from ....losses import GuidedContrastiveLoss
from ...step import Pair, PseudoLabels, Step, View
from ..term import Term
from ..views import StrongView
from .heads import Heads

__all__ = ["GuidedContrast"]


class GuidedContrast(Term):
    """A voxel's projected features resemble themselves in the other view, not a memory of the other classes.

    :class:`~...losses.GuidedContrastiveLoss` for each network between the step's unlabelled images and another view of
    them, which gives the classes, says how sure they are, and is constant. Jiang et al., "Guided Point Contrastive
    Learning", ICCV 2021, arXiv 2110.08188.

    Args:
        num_classes: C.
        feature_channels: width of both networks' features.
        channels: width of the projection.
        vary: makes the other view; None: :class:`~..views.StrongView`.
        temperature, threshold, bank_size: as in the loss.
        weight: factor on the term (0.1 in the paper).
    """

    reads = frozenset({"unlabeled"})
    needs_unlabeled = True

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        channels: int = 32,
        vary: StrongView | None = None,
        temperature: float = 0.1,
        threshold: float = 0.75,
        bank_size: int = 10_000,
        weight: float = 0.1,
    ) -> None:
        super().__init__(weight)
        self.heads = Heads(feature_channels, channels)
        self.vary = StrongView() if vary is None else vary
        loss = partial(
            GuidedContrastiveLoss,
            num_classes,
            channels,
            temperature=temperature,
            threshold=threshold,
            bank_size=bank_size,
        )
        self.losses = nn.ModuleDict({name: loss() for name in ("a", "b")})

    def prepare(self, step: Step) -> View:
        return View(self.vary(step.weak_view), None)

    def forward(self, step: Step) -> Pair[Tensor]:
        losses, labels = [], []
        for name, guided, guide in zip("ab", step.on_unlabeled, step.on_view(self), strict=True):
            loss = cast(GuidedContrastiveLoss, self.losses[name])
            projections = (self.heads.project(name, view.features) for view in (guided, guide))
            losses.append(loss(*projections, guide.logits))
            confidence, classes = guide.p.detach().max(1, keepdim=True)
            labels.append(PseudoLabels(classes, confidence >= loss.threshold))
        step.observe(Pair(*labels))
        return Pair(*losses)
