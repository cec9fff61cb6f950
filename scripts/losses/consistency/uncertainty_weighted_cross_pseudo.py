# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss

from ..voxelwise import check_logits, check_matching, checked_mask, full_precision, predict, reduce_voxels

__all__ = ["UncertaintyWeightedCrossPseudoLoss", "uncertainty_weighted_cross_pseudo"]


def uncertainty_weighted_cross_pseudo(
    log_p: torch.Tensor,
    teacher_log_p: torch.Tensor,
    teacher_p: torch.Tensor,
    teacher_entropy: torch.Tensor,
    temperature: float,
    gamma: float,
    detach_weight: bool,
    hard: bool,
) -> torch.Tensor:
    """Map [B, 1, *spatial] of :class:`UncertaintyWeightedCrossPseudoLoss` from log-probabilities [B, C, *spatial].

    ``teacher_entropy`` is that of :func:`~.entropy_map`; the entropy filter needs it too.
    """
    teacher_log_p, teacher_p = teacher_log_p.detach(), teacher_p.detach()
    if hard:
        winner = teacher_log_p.max(1, keepdim=True)[1]
        q = torch.zeros_like(log_p).scatter_(1, winner, 1.0)
    else:
        q = (teacher_log_p / temperature).softmax(1)
    cross_entropy = -(teacher_p * (log_p.detach() if detach_weight else log_p)).sum(1, keepdim=True)
    divergence = cross_entropy - teacher_entropy
    # Cross entropy and divergence both multiply log_p by something: added up first, it is one pass over the volume.
    target = torch.add(torch.exp(-divergence) * q, teacher_p, alpha=gamma)
    return -(target * log_p).sum(1, keepdim=True) - gamma * teacher_entropy


class UncertaintyWeightedCrossPseudoLoss(_Loss):
    r"""
    Cross pseudo supervision in which a voxel counts the less, the more the two networks' predictions diverge.

    For a student :math:`p`, a teacher :math:`t` with logits :math:`z`, :math:`q = \mathrm{softmax}(z / T)` and the
    divergence :math:`d = \mathrm{KL}(t \Vert p)`, all with the teacher's side constant,

    .. math::
        L = \mathrm{mean}\Big(e^{-d} \cdot \big(-\sum_c q_c \log p_c\big)\Big) + \gamma \, \mathrm{mean}(d)

    The weight :math:`e^{-d}` is a constant too unless ``detach_weight=False``: with a gradient it rewards disagreement
    when there are more than two classes. Only ``input`` is trained; call it twice to train both networks.

    Lu et al., "Enhancing Dual Network Based Semi-Supervised Medical Image Segmentation with Uncertainty-Guided
    Pseudo-Labeling", Knowledge-Based Systems 2025, https://arxiv.org/abs/2509.13084 (term 3 of the method); the weight
    is that of Zheng and Yang, "Rectifying Pseudo Label Learning via Uncertainty Estimation", IJCV 2021,
    https://arxiv.org/abs/2003.03773, and the soft targets those of RCPS, https://arxiv.org/abs/2301.05500.

    Example:
        >>> import torch
        >>> loss = UncertaintyWeightedCrossPseudoLoss(temperature=0.5)
        >>> student = torch.zeros(1, 3, 4, 4, requires_grad=True)
        >>> round(loss(student, torch.zeros(1, 3, 4, 4)).item(), 4)  # no divergence: log(3) remains
        1.0986
    """

    def __init__(
        self,
        temperature: float = 0.5,
        gamma: float = 1.0,
        detach_weight: bool = True,
        hard: bool = False,
        reduction: str = "mean",
    ) -> None:
        """
        Args:
            temperature: T of the teacher's soft targets, above 0; below 1 it sharpens them. Unused when ``hard``.
            gamma: weight of the divergence, at least 0; without it the loss could shrink by diverging.
            detach_weight: whether the weight ``exp(-d)`` is a constant.
            hard: whether the target is the teacher's winning class instead of its sharpened probabilities.
            reduction: {``"none"``, ``"mean"``, ``"sum"``}
                ``"mean"`` is over the voxels of the mask; ``"none"`` gives a map [B, 1, *spatial].

        Raises:
            ValueError: When ``temperature`` is not above 0 or ``gamma`` is below 0.
            ValueError: When ``reduction`` is none of the options.
        """
        super().__init__(reduction=LossReduction(reduction).value)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not gamma >= 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        self.temperature = float(temperature)
        self.gamma = float(gamma)
        self.detach_weight = detach_weight
        self.hard = hard

    def forward(self, input: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the student, the network to train.
            teacher: logits [B, C, *spatial] of the teacher; gets no gradient.
            mask: bool [B, 1, *spatial], True where a voxel counts. Defaults to all voxels.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input")
        check_matching(input, teacher, "input", "teacher")
        mask = checked_mask(mask, input)
        target = predict(teacher.detach())
        loss = uncertainty_weighted_cross_pseudo(
            full_precision(input).log_softmax(1),
            target.log_p,
            target.p,
            target.entropy,
            self.temperature,
            self.gamma,
            self.detach_weight,
            self.hard,
        )
        return reduce_voxels(loss, mask, self.reduction)
