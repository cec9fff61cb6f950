# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from torch import Tensor

from ...step import Pair, Step
from ..term import Term

__all__ = ["MeanSquareConsistency"]


class MeanSquareConsistency(Term):
    """Each network agrees with its teacher: the mean square of their probabilities' difference, where it counts.

    Voxels count by the mask of the method's labeler. Tarvainen and Valpola, "Mean teachers are better role models",
    NIPS 2017; Yu et al., UA-MT, MICCAI 2019, arXiv 1907.07034.

    Args:
        weight: factor on the term.
    """

    reads = frozenset({"unlabeled"})
    needs_unlabeled = True
    needs_labeler = True

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__(weight)

    def forward(self, step: Step) -> Pair[Tensor]:
        losses = []
        for (student, teacher), own in zip(step.lessons(), step.pseudo_labels, strict=True):
            logits, target = student.logits.float(), teacher.logits.detach().float().softmax(1)
            squares = (logits.softmax(1) - target).square() * own.mask
            losses.append(squares.sum() / (logits.shape[1] * own.mask.sum()).clamp(min=1))
        return Pair(*losses)
