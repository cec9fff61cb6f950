# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ....losses import PairUncertaintyWeight, full_precision
from ....losses.contrastive.feature_maps import at_feature_resolution, draw_per_class, take, unit, wide_features
from ...step import Pair, Prediction, PseudoLabels, Step
from ..term import Term

__all__ = ["UncertainPairs"]


class UncertainPairs(Term):
    """A voxel's features lie nearer to those of its class than to the others', the more the surer the pair is.

    Of voxels drawn in equal number from the pseudo-classes, each with the farthest of its class and the nearest of
    another: ``mean(w_p w_n softplus(d_p - d_n))`` with distances of unit features and the weights of both pairs by
    :class:`~...losses.PairUncertaintyWeight`, from how far the student is from its teacher. Zheng et al., UNRN, AAAI
    2021, arXiv 2012.08733: its triplet loss for images of persons, here for voxels. The product of the two weights is
    ours.

    Args:
        per_class: voxels drawn of a class.
        combine: as in the weight.
        weight: factor on the term.

    Raises:
        ValueError: when ``per_class`` is below 2, or ``combine`` is none of the options.
    """

    reads = frozenset({"unlabeled"})
    needs_unlabeled = True
    needs_labeler = True

    def __init__(self, per_class: int = 64, combine: str = "mean", weight: float = 1.0) -> None:
        super().__init__(weight)
        if per_class < 2:
            raise ValueError(f"per_class must be at least 2, got {per_class}.")
        self.per_class = per_class
        self.certainty = PairUncertaintyWeight(combine)

    def forward(self, step: Step) -> Pair[Tensor]:
        triples = zip(step.lessons(), step.pseudo_labels, strict=True)
        return Pair(*(self._loss(student, teacher, own) for (student, teacher), own in triples))

    def _loss(self, student: Prediction, teacher: Prediction, own: PseudoLabels) -> Tensor:
        size, num_classes = student.features.shape[2:], student.logits.shape[1]
        labels, counts = (at_feature_resolution(maps, size) for maps in (own.labels, own.mask))
        index, drawn = draw_per_class(labels.masked_fill(~counts, -1), num_classes, 1.0, 1, self.per_class)
        classes = torch.arange(num_classes, device=index.device)[:, None].expand_as(index).flatten()
        index, drawn = index.flatten(), drawn.flatten()
        with torch.autocast(student.features.device.type, enabled=False):
            features = unit(take(wide_features(student.features), index))
            distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
            both = drawn[:, None] & drawn
            same = (classes[:, None] == classes) & both & ~torch.eye(len(classes), dtype=torch.bool, device=both.device)
            other = (classes[:, None] != classes) & both
            far, positive = distances.masked_fill(~same, -torch.inf).max(1)
            near, negative = distances.masked_fill(~other, torch.inf).min(1)
            # softplus of what does not exist would be infinite, and its gradient not a number
            exists = same.any(1) & other.any(1)
            margins = torch.where(exists, far.masked_fill(~exists, 0) - near.masked_fill(~exists, 0), 0.0)
            sure = self._sure(student, teacher, index, size)
            weights = self._pair(*sure, positive) * self._pair(*sure, negative)
            return (weights * softplus(margins) * exists).sum() / exists.sum().clamp(min=1)

    @staticmethod
    def _sure(student: Prediction, teacher: Prediction, index: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Logits [n,C,1] of both at the voxels drawn."""
        maps = [at_feature_resolution(one.logits.detach(), size) for one in (student, teacher)]
        of_student, of_teacher = (full_precision(take(one, index)).unsqueeze(-1) for one in maps)
        return of_student, of_teacher

    def _pair(self, student: Tensor, teacher: Tensor, partner: Tensor) -> Tensor:
        return self.certainty(student, teacher, student[partner], teacher[partner]).flatten()
