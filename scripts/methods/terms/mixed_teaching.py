# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor

from ..step import Pair, Step
from .term import Term

__all__ = ["MixedTeaching"]


class MixedTeaching(Term):
    """Where a labelled image was not annotated, both networks learn the classes of a random mixture of theirs.

    ``argmax(m p_a + (1 - m) p_b)`` with m uniform in [0, 1], drawn anew for every step; known voxels keep their label,
    and of a drawn background that may be a class that was not annotated, the mixture chooses among these. The Dice loss
    over the whole image gives few scribbles a shape. It applies to images whose labels are not complete, from the first
    step on, without a ramp.

    Luo et al., "Scribble-Supervised Medical Image Segmentation via Dual-Branch Network and Dynamically Mixed Pseudo
    Labels Supervision", MICCAI 2022, arXiv 2203.02106: two decoders there, two networks here. Keeping the known voxels
    is ours.

    Args:
        weight: lambda (0.5 in the paper).
    """

    reads = frozenset({"labeled"})

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__(weight)
        self.loss = DiceLoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)

    def applies(self, step: Step) -> bool:
        return step.classes is not None

    def forward(self, step: Step) -> Pair[Tensor]:
        labels = self._labels(step)
        return Pair(*(self.loss(one.logits.float(), labels) for one in step.on_labeled))

    @torch.no_grad()
    def _labels(self, step: Step) -> Tensor:
        if step.classes is None or step.drawn is None or step.certain is None:
            raise ValueError("Labels are complete: nothing is mixed.")
        a, b = (one.logits.float().softmax(1) for one in step.on_labeled)  # whose own p is kept, with a gradient
        share = torch.rand((), device=a.device)
        mixed = share * a + (1 - share) * b
        excluded = step.classes.view(*step.classes.shape, *[1] * (mixed.dim() - 2)).clone()
        excluded[:, 0] = False  # a voxel drawn as background is background, or what was not annotated
        labels = mixed.masked_fill(excluded & step.drawn & (step.label == 0), -1.0).argmax(1, keepdim=True)
        return torch.where(step.certain, step.label.long(), labels)
