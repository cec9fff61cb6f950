# SPDX-License-Identifier: Apache-2.0
"""Labelers that let the pseudo-labels of another one count by weights."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ...losses import DifficultyWeight, SoftMatchWeight
from ..step import Follower, Prediction, PseudoLabels, Step
from .around import Around
from .from_teachers import Labeler

__all__ = ["DifficultyWeights", "SoftWeights"]


class _Weights(Around):
    @property
    def gives_weights(self) -> bool:
        return True

    @staticmethod
    def weighed(own: PseudoLabels, weight: Tensor) -> PseudoLabels:
        return own._replace(weight=weight if own.weight is None else own.weight * weight)


class SoftWeights(_Weights):
    """Voxels count the less, the further their teacher's confidence is below its mean.

    :class:`~...losses.SoftMatchWeight`, one for each teacher; a label that is not the teacher's own class does not
    count. Protects from teachers' errors without throwing away all that a threshold would. Chen et al., SoftMatch,
    ICLR 2023, arXiv 2301.10921.

    Args:
        num_classes: C.
        momentum, n_sigma: as there; the default is for thousands of steps, not for a million.
        labeler: as in :class:`Around`.
    """

    def __init__(
        self, num_classes: int, momentum: float = 0.99, n_sigma: float = 2.0, labeler: Labeler | None = None
    ) -> None:
        super().__init__(labeler)
        self.of_teachers = nn.ModuleDict(
            {network: SoftMatchWeight(num_classes, momentum, n_sigma) for network in ("a", "b")}
        )

    def protect(self, network: str, teacher: Prediction, own: PseudoLabels) -> PseudoLabels:
        weight = cast(SoftMatchWeight, self.of_teachers[network]).from_probabilities(teacher.p.detach())
        same = teacher.logits.argmax(1, keepdim=True) == own.labels
        return self.weighed(own._replace(mask=own.mask & same), weight)


class DifficultyWeights(_Weights, Follower):
    """Voxels of classes that a network finds hard count more, those of easy ones less; the mean over classes is 1.

    :class:`~...losses.DifficultyWeight`, one for each network, of its Dice on the labelled images of every step so
    far, the supervised part's too. Protects small and hard classes from drowning in the background. Wang and Li,
    NeurIPS 2023, arXiv 2310.11320. Weighing pseudo-labels alone is ours: labelled crops are cut around the classes.

    Args:
        num_classes: C.
        momentum, exponent: as there.
        labeler: as in :class:`Around`.
    """

    reads = frozenset({"labeled"})

    def __init__(
        self, num_classes: int, momentum: float = 0.95, exponent: float = 0.2, labeler: Labeler | None = None
    ) -> None:
        super().__init__(labeler)
        self.of_networks = nn.ModuleDict(
            {network: DifficultyWeight(num_classes, momentum, exponent) for network in ("a", "b")}
        )

    def protect(self, network: str, teacher: Prediction, own: PseudoLabels) -> PseudoLabels:
        weights = cast(DifficultyWeight, self.of_networks[network]).weights
        return self.weighed(own, weights[own.labels])

    @torch.no_grad()
    def follow(self, step: Step) -> None:
        for network, said in step.on_labeled._asdict().items():
            difficulty = cast(DifficultyWeight, self.of_networks[network])
            difficulty.update(_dice(said.logits, step.label, step.certain))


def _dice(logits: Tensor, label: Tensor, mask: Tensor | None) -> Tensor:
    """Dice [C] of the winning classes over a batch; nan for a class that is in neither."""
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1)
    said, known = (maps.flatten(2) == classes for maps in (logits.argmax(1, keepdim=True), label))
    if mask is not None:
        said, known = said & mask.flatten(2), known & mask.flatten(2)
    both, sizes = (said & known).sum((0, 2)), said.sum((0, 2)) + known.sum((0, 2))
    return 2 * both / sizes
