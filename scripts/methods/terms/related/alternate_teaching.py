# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ....networks import HostBuffers, MovingAverage
from ...step import Pair, Prediction, PseudoLabels, Step, View
from ..term import Term
from ..views import CutMix, StrongView, from_partner

__all__ = ["AlternateTeaching"]


class AlternateTeaching(HostBuffers, Term):
    """Two moving averages of each network teach it together, of which only one at a time follows it.

    Periods of random length alternate. In one the first average follows the network, which sees strongly varied images;
    in the other the second one does, and the images exchange boxes; so the averages come from different data. The
    average that follows drops out, the other does not. Their probabilities are averaged, each weighted by exp(-entropy
    in bits); where their classes differ, the network's own class of the weak view stands if it is the surer one. Voxels
    count from a threshold on; the cross entropy is their mean.

    Zhao et al., "Alternate Diverse Teaching for Semi-supervised Medical Image Segmentation", ECCV 2024, arXiv
    2311.17325, with the numbers of its code for the left atrium. Ours: where boxes are exchanged, the network's own
    classes are exchanged with them.

    Args:
        networks: the dual network that is trained.
        decay: of the averages, in [0, 1).
        period: most steps of a period.
        threshold: probability from which a voxel counts, in [0, 1].
        vary: makes the strong view; None: :class:`~..views.StrongView`.
        weight: factor on the term.

    Attributes:
        active: buffer, which average follows the networks now, 0 or 1.
        remaining: buffer, steps that are left of the period.
    """

    needs_unlabeled = True
    on_host = ("active", "remaining")
    active: Tensor
    remaining: Tensor

    def __init__(
        self,
        networks: nn.Module,
        decay: float = 0.99,
        period: int = 19,
        threshold: float = 0.8,
        vary: StrongView | None = None,
        weight: float = 2.0,
    ) -> None:
        super().__init__(weight)
        if period < 1 or not 0 <= threshold <= 1:
            raise ValueError(f"period must be at least 1 and threshold in [0, 1], got {period} and {threshold}.")
        self.networks = (networks,)  # in a tuple: not a part of the method's state
        self.averages = nn.ModuleList(MovingAverage(networks, decay) for _ in range(2))
        self.period = period
        self.threshold = threshold
        self.vary = StrongView() if vary is None else vary
        self.cutmix = CutMix(prob=1.0)
        self.register_buffer("active", torch.zeros((), dtype=torch.int64))
        self.register_buffer("remaining", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def prepare(self, step: Step) -> View:
        if self.training:
            self._follow()
        plain, active = step.weak_view, int(self.active)
        said = []
        for number, average in enumerate(cast(Sequence[MovingAverage], self.averages)):
            average.module.train(number == active)
            said.append([Prediction(*output) for output in average.module(plain)])
        targets = Pair(*(self._together(*of_one) for of_one in zip(*said, strict=True)))
        boxes = self.cutmix(plain) if active else None
        strong = self.vary(plain) if boxes is None else from_partner(plain, boxes)
        return View(torch.cat([plain, strong]), (targets, boxes))

    def _follow(self) -> None:
        """The active average follows the last step's network; then, at the end of a period, it is the other's turn."""
        cast(MovingAverage, self.averages[int(self.active)]).update_parameters(self.networks[0])
        if self.remaining == 0:
            self.active.copy_(1 - self.active)
            self.remaining.copy_(torch.randint(1, self.period + 1, ()))
        self.remaining.sub_(1)

    @staticmethod
    def _together(one: Prediction, other: Prediction) -> tuple[Tensor, Tensor, Tensor]:
        """Class [N,1,*S] of the averages' ensemble, its probability, and where they do not agree."""
        weights = torch.softmax(torch.cat([-one.entropy, -other.entropy], 1) / math.log(2), 1)
        confidence, labels = (weights[:, :1] * one.p + weights[:, 1:] * other.p).max(1, keepdim=True)
        return labels, confidence, one.p.argmax(1, keepdim=True) != other.p.argmax(1, keepdim=True)

    def forward(self, step: Step) -> Pair[Tensor]:
        targets, boxes = step.views[self].target
        learnt = [self._learn(own, target, boxes) for own, target in zip(step.on_view(self), targets, strict=True)]
        step.observe(Pair(*(labels for _, labels in learnt)))
        return Pair(*(loss for loss, _ in learnt))

    def _learn(
        self, own: Prediction, target: tuple[Tensor, Tensor, Tensor], boxes: Tensor | None
    ) -> tuple[Tensor, PseudoLabels]:
        labels, confidence, conflict = target
        weak, strong = own.log_p.chunk(2)
        own_confidence, own_labels = weak.detach().exp().max(1, keepdim=True)
        surer = conflict & (own_confidence > confidence)
        labels, confidence = torch.where(surer, own_labels, labels), torch.where(surer, own_confidence, confidence)
        if boxes is not None:
            labels, confidence = from_partner(labels, boxes), from_partner(confidence, boxes)
        counts = confidence >= self.threshold
        loss = -(strong.gather(1, labels) * counts).sum() / counts.sum().clamp(min=1)
        return loss, PseudoLabels(labels, counts)
