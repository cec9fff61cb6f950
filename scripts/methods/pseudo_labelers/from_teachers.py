# SPDX-License-Identifier: Apache-2.0
"""From what the teachers predict to pseudo-labels for each network, and which voxels count."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...losses import (
    ConfidencePseudoLabeler,
    EnsembleVotingPseudoLabels,
    EntropyFilteredPseudoLabeler,
    LargestComponent,
    PartialDiceLoss,
)
from ..step import Pair, Prediction, PseudoLabels, Step

__all__ = [
    "CertainOverPasses",
    "Confident",
    "EntropyFilter",
    "Labeler",
    "MeanOfTeachers",
    "OfBetterNetwork",
    "OfEachTeacher",
    "Voting",
]

Labeler = Callable[[Step, Pair[Prediction]], Pair[PseudoLabels]]


class EntropyFilter(nn.Module):
    """Labels on which both teachers together decide; the voxels of highest entropy do not count.

    :class:`~..losses.EntropyFilteredPseudoLabeler` on the teachers' probabilities. Lu et al., arXiv 2509.13084.

    Args:
        drop_fraction, combine, per_class: as there.
        decay: let the fraction that is dropped shrink linearly to 0 over the training (Wang et al., U2PL, CVPR 2022).
    """

    def __init__(
        self, drop_fraction: float = 0.2, combine: str = "either", per_class: bool = True, decay: bool = False
    ) -> None:
        super().__init__()
        self.labeler = EntropyFilteredPseudoLabeler(drop_fraction, combine, per_class)
        self.drop_fraction = drop_fraction
        self.decay = decay

    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        if self.decay:
            self.labeler.drop_fraction = self.drop_fraction * (1 - step.progress)
        b, a = teachers  # of the default cross teacher: what teaches a is b
        both = PseudoLabels(*self.labeler.from_probabilities(a.p, a.entropy, b.p, b.entropy))
        return Pair(both, both)


class MeanOfTeachers(nn.Module):
    """Labels of the teachers' mean probability; voxels count where it is high enough.

    Args:
        confidence: least probability of the label, in [0, 1]; 0: all voxels count.
    """

    def __init__(self, confidence: float = 0.0) -> None:
        super().__init__()
        self.confidence = confidence

    @torch.no_grad()
    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        a, b = (teacher.logits.float().softmax(1) for teacher in teachers)
        confidence, labels = ((a + b) / 2).max(1, keepdim=True)
        both = PseudoLabels(labels, confidence >= self.confidence)
        return Pair(both, both)


class OfEachTeacher(nn.Module):
    """Each network learns its own teacher's classes, everywhere.

    Args:
        largest_component: keep only the largest connected component of each foreground class (Bai et al., CVPR 2023),
            found on the CPU, which a GPU then waits for.
    """

    def __init__(self, largest_component: bool = False) -> None:
        super().__init__()
        self.clean = LargestComponent() if largest_component else None

    @torch.no_grad()
    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        return Pair(*(self._labels(teacher.logits) for teacher in teachers))

    def _labels(self, logits: Tensor) -> PseudoLabels:
        labels = logits.argmax(1, keepdim=True)
        if self.clean is not None:
            return PseudoLabels(*self.clean(labels))
        return PseudoLabels(labels, torch.ones_like(labels, dtype=torch.bool))


class CertainOverPasses(OfEachTeacher):
    """Each teacher's classes count where its mean over noisy passes is certain.

    A voxel counts when the entropy of the mean softmax of ``passes`` passes is below ``(0.75 + 0.25 w(t)) * log C``,
    with the method's ramp-up w(t).

    Yu et al., "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left Atrium Segmentation", MICCAI 2019,
    arXiv 1907.07034, eq. 2 to 4 (there, C = 2).

    Args:
        passes: how often the method's teacher is asked; it should drop out, or see noise.
    """

    def __init__(self, passes: int = 8) -> None:
        super().__init__()
        self.passes = passes

    @torch.no_grad()
    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        passes = [[t.logits.float().softmax(1) for t in step.method.teacher(step)] for _ in range(self.passes)]
        means = [torch.stack(one_network).mean(0) for one_network in zip(*passes, strict=True)]
        threshold = (0.75 + 0.25 * step.ramp) * math.log(means[0].shape[1])
        certain = [-torch.xlogy(mean, mean).sum(1, keepdim=True) < threshold for mean in means]
        labels = super().forward(step, teachers)
        return Pair(*(PseudoLabels(own.labels, mask) for own, mask in zip(labels, certain, strict=True)))


class Confident(nn.Module):
    """Each network learns its own teacher's classes, where their probability reaches a threshold.

    :class:`~..losses.ConfidencePseudoLabeler`. Sohn et al., FixMatch, NeurIPS 2020, arXiv 2001.07685.

    Args:
        threshold, rise_to: as there.
    """

    def __init__(self, threshold: float = 0.95, rise_to: float | None = None) -> None:
        super().__init__()
        self.labeler = ConfidencePseudoLabeler(threshold, rise_to)

    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        return Pair(*(PseudoLabels(*self.labeler(teacher.logits, step.progress)) for teacher in teachers))


class OfBetterNetwork(nn.Module):
    """Both learn the classes of the network that does better on this step's labels; the uncertain voxels do not count.

    Better is the smaller Dice loss. Voxels count unless they are among those of highest entropy in both networks.
    Karimijafarbigloo et al., arXiv 2311.12617, with the numbers of its code.

    Args:
        drop_fraction: of the voxels, by entropy, in [0, 1).
    """

    def __init__(self, drop_fraction: float = 0.2) -> None:
        super().__init__()
        self.drop = EntropyFilteredPseudoLabeler(drop_fraction, combine="both", per_class=False)
        self.score = PartialDiceLoss(include_background=False, batch=True)

    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        a, b = step.on_unlabeled  # whose probabilities are kept for the terms: with a gradient
        of_a, of_b = (step.against_labels(self.score, one.logits.detach().float()) for one in step.on_labeled)
        labels = torch.where(of_a < of_b, a.logits, b.logits).argmax(1, keepdim=True)
        _, counts = self.drop.from_probabilities(a.p, a.entropy, b.p, b.entropy)
        both = PseudoLabels(labels, counts)
        return Pair(both, both)


class Voting(nn.Module):
    """Labels on which enough of four agree: both networks, and what teaches each of them.

    :class:`~..losses.EnsembleVotingPseudoLabels`, after the ensemble of arXiv 2507.18176.

    Args:
        min_agreement: votes that a label needs, from 1 to 4.

    Raises:
        ValueError: when ``min_agreement`` is out of its range.
    """

    def __init__(self, min_agreement: int = 3) -> None:
        super().__init__()
        if not 1 <= min_agreement <= 4:
            raise ValueError(f"min_agreement must be from 1 to 4, the number of voters, got {min_agreement}.")
        self.votes = EnsembleVotingPseudoLabels(min_agreement)

    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        both = PseudoLabels(*self.votes([one.logits for one in (*step.on_unlabeled, *teachers)]))
        return Pair(both, both)
