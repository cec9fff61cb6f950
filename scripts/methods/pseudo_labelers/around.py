# SPDX-License-Identifier: Apache-2.0
"""Labelers around another one: they take its pseudo-labels and protect the networks from some of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from ...losses import AdaptiveConfidencePseudoLabeler, LargestComponent
from ..step import Pair, Prediction, PseudoLabels, Step
from .from_teachers import Labeler, OfEachTeacher

__all__ = ["AdaptiveConfidence", "Around", "WithoutIslands"]


class Around(nn.Module, ABC):
    """Asks another labeler, and changes for each network what it says; state is in buffers (ours).

    Args:
        labeler: whose pseudo-labels; None: the classes of each network's own teacher, everywhere. It may be around
            another one in its turn.
    """

    def __init__(self, labeler: Labeler | None = None) -> None:
        super().__init__()
        self.labeler = OfEachTeacher() if labeler is None else labeler

    @property
    def gives_weights(self) -> bool:
        """Whether pseudo-labels come with weights."""
        return getattr(self.labeler, "gives_weights", False)

    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        labels = self.labeler(step, teachers)
        return Pair(self.protect("a", teachers.a, labels.a), self.protect("b", teachers.b, labels.b))

    @abstractmethod
    def protect(self, network: str, teacher: Prediction, own: PseudoLabels) -> PseudoLabels:
        """What becomes of the pseudo-labels of a network, which ``teacher`` teaches."""


class AdaptiveConfidence(Around):
    """Voxels count where the network's teacher is sure enough of the same class; every class adapts its threshold.

    :class:`~...losses.AdaptiveConfidencePseudoLabeler`, one for each teacher. Protects classes that are rare or hard
    from a threshold that only the easy ones reach, and all from one that is too low when teachers have become good.
    Wang et al., FreeMatch, ICLR 2023, arXiv 2205.07246; Zhang et al., FlexMatch, NeurIPS 2021, arXiv 2110.08263.

    Args:
        num_classes: C.
        momentum, form, threshold: as there; the default is for thousands of steps, not for a million.
        labeler: as in :class:`Around`.
    """

    def __init__(
        self,
        num_classes: int,
        momentum: float = 0.99,
        form: str = "freematch",
        threshold: float = 0.95,
        labeler: Labeler | None = None,
    ) -> None:
        super().__init__(labeler)
        self.of_teachers = nn.ModuleDict(
            {network: AdaptiveConfidencePseudoLabeler(num_classes, momentum, form, threshold) for network in ("a", "b")}
        )

    def protect(self, network: str, teacher: Prediction, own: PseudoLabels) -> PseudoLabels:
        labels, sure = self.of_teachers[network].from_probabilities(teacher.p)  # type: ignore[operator]
        return own._replace(mask=own.mask & sure & (labels == own.labels))


class WithoutIslands(Around):
    """Voxels outside the largest connected component of their class do not count, for classes that are one piece.

    :class:`~...losses.LargestComponent`, found on the CPU, which a GPU then waits for. Protects from false positives
    far from the structure (Bai et al., CVPR 2023, arXiv 2305.00673). There, an island becomes background; here it is
    left out by default, since a crop may cut one structure into two pieces, and both are true.

    Args:
        classes: those that are one piece in every scan, each at least 1. That is the anatomy of a data set, so its
            config says it (``connected_labels``). None: all but background; empty: nothing changes.
        ignore: whether an island is left out, instead of becoming background.
        labeler: as in :class:`Around`.
    """

    def __init__(
        self, classes: Sequence[int] | None = None, ignore: bool = True, labeler: Labeler | None = None
    ) -> None:
        super().__init__(labeler)
        self.clean = LargestComponent(classes, ignore)

    def protect(self, network: str, teacher: Prediction, own: PseudoLabels) -> PseudoLabels:
        if self.clean.classes == ():
            return own
        labels, mask = self.clean(own.labels, own.mask)
        return own._replace(labels=labels, mask=mask)

    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        labels = self.labeler(step, teachers)
        if labels.a is labels.b:  # once is enough
            cleaned = self.protect("a", teachers.a, labels.a)
            return Pair(cleaned, cleaned)
        return Pair(self.protect("a", teachers.a, labels.a), self.protect("b", teachers.b, labels.b))
