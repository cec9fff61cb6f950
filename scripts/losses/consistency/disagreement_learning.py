# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import torch
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss

from ..voxelwise import check_logits, check_matching, checked_mask, one_channel, plain, predict, reduce_voxels

__all__ = ["DisagreementLearningLoss"]


class DisagreementLearningLoss(_Loss):
    r"""
    Where two students disagree, learn what is right and forget what is wrong.

    For a student :math:`p`, another student :math:`r` that is constant, and labels :math:`y` of a reliable side (a
    moving-average teacher on unlabelled voxels, the ground truth on labelled ones), on the voxels of
    :math:`D = [\arg\max p \ne \arg\max r]`

    .. math::
        L = \frac1{\max(|D|, 1)} \sum_{v \in D} w_{mse} \, \tfrac12 \lVert p_v - \mathrm{onehot}(y_v) \rVert^2
            + w_{kl} \, [\arg\max p_v \ne y_v] \, \mathrm{KL}(p_v \Vert u)

    with the uniform distribution :math:`u`. The second term raises the entropy of what is wrong, and it is bounded: it
    is in :math:`[0, \log C]`, and its gradient vanishes at :math:`u`. ``input`` is trained, ``teacher`` is not; call it
    twice with the arguments swapped to train both students.

    Song and Wang, "SDCL: Students Discrepancy-Informed Correction Learning for Semi-supervised Medical Image
    Segmentation", MICCAI 2024, https://arxiv.org/abs/2409.16728; the weights are those of its released code. Ours: one
    average over D for both terms, and this direction of the divergence, since KL(u || p) has no bound.

    Example:
        >>> import torch
        >>> a = torch.tensor([[[[3.0, 3.0]], [[0.0, 0.0]]]], requires_grad=True)
        >>> b = torch.tensor([[[[0.0, 3.0]], [[3.0, 0.0]]]])  # another winner at the first voxel
        >>> loss = DisagreementLearningLoss()
        >>> right, wrong = (loss(a, b, torch.full((1, 1, 1, 2), label)) for label in (0, 1))
        >>> round(right.item(), 4), round(wrong.item(), 4)
        (0.0011, 0.4788)
    """

    def __init__(self, mse_weight: float = 0.5, kl_weight: float = 0.05, reduction: str = "mean") -> None:
        """
        Args:
            mse_weight: weight of the squared error, at least 0.
            kl_weight: weight of the divergence from uniform, at least 0.
            reduction: {``"none"``, ``"mean"``, ``"sum"``}
                ``"mean"`` is over the voxels of the disagreement; ``"none"`` gives a map [B, 1, *spatial], zero
                elsewhere.

        Raises:
            ValueError: When a weight is below 0, or ``reduction`` is none of the options.
        """
        super().__init__(reduction=LossReduction(reduction).value)
        if not (mse_weight >= 0 and kl_weight >= 0):
            raise ValueError(f"mse_weight and kl_weight must be at least 0, got {mse_weight} and {kl_weight}")
        self.mse_weight = float(mse_weight)
        self.kl_weight = float(kl_weight)

    def forward(
        self, input: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the student to train.
            teacher: logits [B, C, *spatial] of the other student; get no gradient.
            labels: class maps [B, 1, *spatial] of the reliable side, values in [0, C).
            mask: bool [B, 1, *spatial], True where the label is reliable. Defaults to all voxels.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input")
        check_matching(input, teacher, "input", "teacher")
        labels = one_channel(labels, input, "labels")
        mask = checked_mask(mask, input)
        student = predict(input)
        winner = student.log_p.detach().max(1, keepdim=True)[1]
        counted = winner != plain(teacher.detach()).max(1, keepdim=True)[1]
        if mask is not None:
            counted = counted & mask
        residual = student.p.scatter_add(1, labels, torch.full_like(labels, -1, dtype=student.p.dtype))
        square = residual.square().sum(1, keepdim=True) / 2
        divergence = (student.p * student.log_p).sum(1, keepdim=True) + math.log(input.shape[1])
        loss = self.mse_weight * square + self.kl_weight * torch.where(winner != labels, divergence, 0.0)
        return reduce_voxels(loss, counted, self.reduction)
