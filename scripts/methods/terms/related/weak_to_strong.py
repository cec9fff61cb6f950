# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ...step import Pair, Step, View
from ..term import Term
from ..views import CutMix, StrongView, from_partner

__all__ = ["WeakToStrong"]


class WeakToStrong(Term):
    """What a teacher says of the weak view is learnt on strongly varied ones, where it is reliable.

    The cross entropy is summed over the reliable voxels and divided by the number of all, as in FixMatch, so that a
    step with few of them counts little. Sohn et al., FixMatch, NeurIPS 2020, arXiv 2001.07685; several strong views,
    and boxes exchanged between them: Yang et al., UniMatch, CVPR 2023, arXiv 2208.09910.

    The pseudo-labels are needed before the step's forward pass, so the method's teacher must ask the networks on its
    own, as :class:`~..teachers.SelfTeacher` and :class:`~..teachers.AverageTeacher` do.

    Args:
        views: how many strong views; the loss is their mean.
        vary: makes a view of images; None: :class:`~..views.StrongView`.
        cutmix: probability that a box of a view is of another image, with its pseudo-labels.
        weight: factor on the term.
    """

    needs_unlabeled = True
    needs_labeler = True
    weighs = True

    def __init__(
        self, views: int = 1, vary: StrongView | None = None, cutmix: float = 0.5, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        if views < 1:
            raise ValueError(f"views must be at least 1, got {views}.")
        self.views = views
        self.vary = StrongView() if vary is None else vary
        self.cutmix = CutMix(cutmix)

    def prepare(self, step: Step) -> View:
        plain, of_each = step.weak_view, step.pseudo_labels
        images, boxes = [], []
        for _ in range(self.views):
            boxes.append(self.cutmix(plain))
            images.append(from_partner(self.vary(plain), boxes[-1]))
        targets = (own.map(lambda maps: torch.cat([from_partner(maps, box) for box in boxes])) for own in of_each)
        return View(torch.cat(images), Pair(*targets))

    def forward(self, step: Step) -> Pair[Tensor]:
        pairs = zip(step.on_view(self), step.views[self].target, strict=True)
        return Pair(*((own.counted * -student.log_p.gather(1, own.labels)).mean() for student, own in pairs))
