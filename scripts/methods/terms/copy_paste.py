# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from monai.utils import CommonKeys as Keys
from torch import Tensor

from ...losses import BoxMix, CopyPasteLoss, MixedBatch
from ..step import Pair, Prediction, PseudoLabels, Step, View
from .labeled_copy_paste import mix_labeled
from .term import Term

if TYPE_CHECKING:
    from ..pseudo_labelers import Labeler
    from ..teachers import Teacher

__all__ = ["CopyPaste", "Mixture"]


class Mixture(NamedTuple):
    """What each network is to learn of the mixed images, how much each voxel of it counts, and who says so."""

    mixed: Pair[MixedBatch]
    weights: Pair[Tensor | None]
    teachers: Pair[Prediction] | None


class CopyPaste(Term):
    """Both networks learn images mixed of a labelled and an unlabelled one, labelled in part by their teachers.

    Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023, arXiv 2305.00673.

    Args:
        ratio: of the box, as in :class:`~...losses.BoxMix`.
        pseudo_weight: as in :class:`~...losses.CopyPasteLoss`.
        pretraining: fraction of the training, from its start, in which two labelled images are mixed instead (2000 of
            17000 steps in the paper); with it the term also applies where there are no unlabelled images, as in the
            supervised part. Labels are not ramped up.
        teacher: who labels the unlabelled images; None: the method's teacher.
        labeler: makes pseudo-labels of it; None: the method's.
        kl_weight: let a pseudo-labelled voxel count by ``exp(-KL(t || p))``, the less the more the student diverges
            from its teacher (the weight of term 3 of the method, Lu et al., arXiv 2509.13084).
        weight: factor on the term.
    """

    needs_unlabeled = True
    weighs = True

    def __init__(
        self,
        ratio: float = 2 / 3,
        pseudo_weight: float = 0.5,
        pretraining: float = 0.0,
        kl_weight: bool = False,
        teacher: Teacher | None = None,
        labeler: Labeler | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.mix = BoxMix(ratio)
        self.loss = CopyPasteLoss(pseudo_weight)
        self.pretraining = pretraining
        self.kl_weight = kl_weight
        self.teacher = teacher
        self.labeler = labeler
        self.needs_labeler = labeler is None

    def applies(self, step: Step) -> bool:
        return step.unlabeled is not None or self.pretraining > 0

    def is_ramped(self, step: Step) -> bool:
        return not self._is_pretraining(step)

    def _is_pretraining(self, step: Step) -> bool:
        return step.unlabeled is None or step.progress < self.pretraining

    @torch.no_grad()
    def prepare(self, step: Step) -> View:
        if self._is_pretraining(step):
            mixed = mix_labeled(self.mix, step)
            return View(mixed.image, Mixture(Pair(mixed, mixed), Pair(None, None), None))
        teachers = self._teachers(step)
        of_a, of_b = self._pseudo_labels(step, teachers)
        image, label, partner = step.labeled[Keys.IMAGE], step.label, step.unlabeled_image
        mixed = self.mix(image, label, partner, of_a.labels, of_a.mask, step.drawn, step.classes)
        both = Pair(mixed, mixed.relabeled(of_b.labels, of_b.mask))
        return View(mixed.image, Mixture(both, Pair(of_a.weight, of_b.weight), teachers))

    def _teachers(self, step: Step) -> Pair[Prediction]:
        return step.teachers if self.teacher is None else self.teacher(step)

    def _pseudo_labels(self, step: Step, teachers: Pair[Prediction]) -> Pair[PseudoLabels]:
        labeler = self.labeler or step.method.labeler
        if labeler is None or (self.labeler is None and self.teacher is None):
            return step.pseudo_labels
        return step.observe(labeler(step, teachers))

    def forward(self, step: Step) -> Pair[Tensor]:
        mixed, weights, teachers = step.views[self].target
        losses = []
        for number, (student, own, weight) in enumerate(zip(step.on_view(self), mixed, weights, strict=True)):
            counts = None if weight is None else weight[: len(student.logits)]
            if self.kl_weight and teachers is not None:
                agreement = student.agreement(teachers[number])
                counts = agreement if counts is None else agreement * counts
            losses.append(self.loss(student.logits, own, counts))
        return Pair(*losses)
