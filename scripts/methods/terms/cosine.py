# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from torch import Tensor

from ...losses.consistency.cosine_consistency import cosine_distance
from ...losses.voxelwise import reduce_voxels
from ..step import Step
from .term import Term

__all__ = ["Cosine"]


class Cosine(Term):
    """One minus the cosine of both networks' probabilities (term 5), as :class:`~...losses.CosineConsistencyLoss`.

    Lu et al., arXiv 2509.13084.

    Args:
        weight: beta.
    """

    reads = frozenset({"unlabeled"})
    needs_unlabeled = True

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__(weight)

    def forward(self, step: Step) -> Tensor:
        a, b = step.on_unlabeled
        return reduce_voxels(cosine_distance(a.p, b.p), None, "mean")
