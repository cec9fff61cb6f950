# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.networks import one_hot
from torch import Tensor

from ...losses import CopyPasteLoss
from ..step import Pair, Prediction, PseudoLabels, Step, View
from .term import Term
from .views import CutMix, StrongView, from_partner

__all__ = ["CutMixTeaching"]


class CutMixTeaching(Term):
    """Both networks learn unlabelled crops that show a box of one another, as teachers label the weak views.

    A strong view of every crop is made, a box is exchanged with the crop before it in the batch, and its pseudo-labels
    with it (a batch of one crop exchanges nothing). The loss is that of the pseudo-labelled part of copy-paste: the
    mean of cross entropy and Dice over the voxels that count. CutMix between unlabelled images as in AD-MT (Zhao et
    al., ECCV 2024, arXiv 2311.17325); two strong views of one weak view as in UniMatch (arXiv 2208.09910); the loss and
    the weight are ours to combine.

    The pseudo-labels are needed before the step's forward pass, so the method's teacher must ask the networks on its
    own, as :class:`~..teachers.AverageTeacher` does.

    Args:
        prob, volume: of the boxes, as in :class:`~..views.CutMix`.
        views: how many strong views, each with boxes of its own; the loss is over all.
        kl_weight: let a voxel count by ``exp(-KL(t || p))`` (term 3 of the method, Lu et al., arXiv 2509.13084).
        vary: makes a view of images; None: :class:`~..views.StrongView`.
        weight: factor on the term.

    Raises:
        ValueError: when an argument is out of its range.
    """

    needs_unlabeled = True
    needs_labeler = True
    weighs = True

    def __init__(
        self,
        prob: float = 1.0,
        volume: tuple[float, float] = (0.02, 0.4),
        views: int = 1,
        kl_weight: bool = False,
        vary: StrongView | None = None,
        weight: float = 0.5,
    ) -> None:
        super().__init__(weight)
        if views < 1:
            raise ValueError(f"views must be at least 1, got {views}.")
        self.cutmix = CutMix(prob, volume)
        self.views = views
        self.kl_weight = kl_weight
        self.vary = StrongView() if vary is None else vary
        self.loss = CopyPasteLoss()

    @torch.no_grad()
    def prepare(self, step: Step) -> View:
        plain, of_each = step.weak_view, step.pseudo_labels
        boxes = [self.cutmix(plain) for _ in range(self.views)]
        image = torch.cat([from_partner(self.vary(plain), box) for box in boxes])

        def exchanged(maps: Tensor) -> Tensor:
            return torch.cat([from_partner(maps, box) for box in boxes])

        labels = Pair(*(own.map(exchanged) for own in of_each))
        teachers = None
        if self.kl_weight:
            teachers = Pair(*(Prediction(exchanged(teacher.logits)) for teacher in step.teachers))
        return View(image, (labels, teachers))

    def forward(self, step: Step) -> Pair[Tensor]:
        labels, teachers = step.views[self].target
        agreements: list[Tensor | None] = [None, None]
        if teachers is not None:
            agreements = [student.agreement(t) for student, t in zip(step.on_view(self), teachers, strict=True)]
        parts = zip(step.on_view(self), labels, agreements, strict=True)
        return Pair(*(self._loss(*part) for part in parts))

    def _loss(self, student: Prediction, own: PseudoLabels, agreement: Tensor | None) -> Tensor:
        counted = own.counted.to(student.log_p)
        target = one_hot(own.labels, student.p.shape[1])
        cross_entropy = -student.log_p.gather(1, own.labels)
        return self.loss.of_part(
            cross_entropy, student.p, target, counted if agreement is None else counted * agreement
        )
