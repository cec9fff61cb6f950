# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ...losses import DistributionAlignment
from ..step import Pair, Prediction, PseudoLabels, Step
from .from_teachers import Labeler, OfEachTeacher

__all__ = ["Aligned"]


class Aligned(nn.Module):
    """Before another labeler sees the teachers' probabilities, their classes get the shares that they ought to have.

    :class:`~...losses.DistributionAlignment`, one for each teacher. Protects from a class that swallows the others, or
    vanishes, by the teachers' and the students' mutual consent. Terms that look at the teachers themselves see them as
    they are. Berthelot et al., ReMixMatch, ICLR 2020, arXiv 1911.09785.

    Args:
        num_classes: C.
        shares: of each class among the voxels of unlabelled crops, [C], where known; None: those of the labelled crops
            so far. These are cut around the classes by default, the unlabelled ones are not: then give ``shares``, or
            cut both alike.
        momentum: as there, but the mean prediction starts with the first one instead of uniform shares, which would
            for long call a background of nine tenths too large (ours).
        labeler: who labels; None: each network learns its own teacher's classes. One that asks the networks by itself
            instead (``OfBetterNetwork``) is not helped.

    Raises:
        ValueError: when ``shares`` are not C numbers above 0 with a sum of 1.
    """

    def __init__(
        self,
        num_classes: int,
        shares: Sequence[float] | None = None,
        momentum: float = 0.99,
        labeler: Labeler | None = None,
    ) -> None:
        super().__init__()
        self.labeler = OfEachTeacher() if labeler is None else labeler
        self.known = shares is not None
        self.of_teachers = nn.ModuleDict(
            {network: DistributionAlignment(num_classes, momentum) for network in ("a", "b")}
        )
        for alignment in self.of_teachers.values():
            cast(DistributionAlignment, alignment).predicted.keep_initial = False
        if shares is not None:
            if len(shares) != num_classes or min(shares) <= 0 or not math.isclose(sum(shares), 1, rel_tol=1e-3):
                raise ValueError(f"shares must be {num_classes} numbers above 0 with a sum of 1, got {list(shares)}.")
            target = torch.tensor(shares, dtype=torch.float32)
            for alignment in self.of_teachers.values():
                cast(DistributionAlignment, alignment).target.move(target, torch.ones_like(target, dtype=torch.bool))

    @property
    def gives_weights(self) -> bool:
        """Whether pseudo-labels come with weights."""
        return getattr(self.labeler, "gives_weights", False)

    def forward(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        aligned = []
        for network, teacher in teachers._asdict().items():
            alignment = cast(DistributionAlignment, self.of_teachers[network])
            if self.training and not self.known:
                alignment.update(step.label, step.certain)
            p = alignment.from_probabilities(teacher.p.detach())
            aligned.append(Prediction(p.clamp(min=torch.finfo(p.dtype).tiny).log(), network=teacher.network))
        return self.labeler(step, Pair(*aligned))
