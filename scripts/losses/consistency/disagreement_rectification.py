# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss

from ..renamed import renamed
from ..supervised.partial_labels import checked_classes, merge_background
from ..voxelwise import check_logits, check_matching, checked_mask, full_precision, one_channel, reduce_voxels

__all__ = ["DisagreementRectificationLoss"]


@renamed(__call__={"other": "teacher", "target": "labels"})
class DisagreementRectificationLoss(_Loss):
    r"""
    Squared error on the labelled voxels where two networks disagree and at least one of them is sure of itself.

    For the probabilities :math:`p` of ``input`` and :math:`r` of ``teacher``, labels :math:`y` and the threshold
    :math:`\tau`,

    .. math::
        M = [\arg\max p \ne \arg\max r] \wedge [\max p \ge \tau \vee \max r \ge \tau], \qquad
        L = \frac{\sum_v M_v \, \lVert p_v - \mathrm{onehot}(y_v) \rVert^2 / 2}{\max(\sum_v M_v, 1)}

    ``input`` is trained, ``teacher`` is not; call it twice with the arguments swapped to train both.

    Wang et al., "MCF: Mutual Correction Framework for Semi-Supervised Medical Image Segmentation", CVPR 2023, and
    Lu et al., "Enhancing Dual Network Based Semi-Supervised Medical Image Segmentation with Uncertainty-Guided
    Pseudo-Labeling", Knowledge-Based Systems 2025, https://arxiv.org/abs/2509.13084 (term 2 of the method).

    Example:
        >>> import torch
        >>> loss = DisagreementRectificationLoss(threshold=0.6)
        >>> a = torch.tensor([[[[2.0]], [[-2.0]]]], requires_grad=True)  # sure of class 0
        >>> b = torch.tensor([[[[0.0]], [[0.1]]]])  # leans to class 1
        >>> value = loss(a, b, torch.tensor([[[[1]]]]))
        >>> round(value.item(), 4)
        0.9644
    """

    def __init__(self, threshold: float = 0.6, mode: str = "disagreement", reduction: str = "mean") -> None:
        """
        Args:
            threshold: probability from which a network counts as sure, in [0, 1].
            mode: {``"disagreement"``, ``"foreground_xor"``}
                Which voxels count. Defaults to ``"disagreement"``.

                - ``"disagreement"``: different winners, and either network sure, as in the formula above.
                - ``"foreground_xor"``: exactly one of the networks is sure of a foreground class (any but class 0), the
                  form in the code released with the paper.
            reduction: {``"none"``, ``"mean"``, ``"sum"``}
                ``"mean"`` is over the voxels that count; ``"none"`` gives a map [B, 1, *spatial], zero elsewhere.

        Raises:
            ValueError: When ``threshold`` is not in [0, 1].
            ValueError: When ``mode`` or ``reduction`` is none of the options.
        """
        super().__init__(reduction=LossReduction(reduction).value)
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must be a probability in [0, 1], got {threshold}")
        if mode not in ("disagreement", "foreground_xor"):
            raise ValueError(f"mode must be 'disagreement' or 'foreground_xor', got {mode!r}")
        self.threshold = float(threshold)
        self.mode = mode

    def forward(
        self,
        input: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
        mask: torch.Tensor | None = None,
        classes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the network to train.
            teacher: logits [B, C, *spatial] of the network it is compared with; gets no gradient.
            labels: ground truth class maps [B, 1, *spatial], values in [0, C).
            mask: bool [B, 1, *spatial], True where the label is known. Defaults to all voxels.
            classes: bool [B, C], True where an image's class was annotated. The others are part of background in both
                networks' probabilities (:func:`~.merge_background`). Defaults to all.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input")
        check_matching(input, teacher, "input", "teacher")
        labels = one_channel(labels, input, "labels")
        probabilities, others = full_precision(input).softmax(1), full_precision(teacher.detach()).softmax(1)
        if classes is not None:
            classes = checked_classes(classes, input)
            probabilities, others = merge_background(probabilities, classes), merge_background(others, classes)
        mask = checked_mask(mask, input)
        counted = self._counted(probabilities.detach(), others)
        if mask is not None:
            counted = counted & mask
        residual = probabilities.scatter_add(1, labels, torch.full_like(labels, -1, dtype=probabilities.dtype))
        return reduce_voxels(residual.square().sum(1, keepdim=True) / 2, counted, self.reduction)

    def _counted(self, probabilities: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        confidence, winner = probabilities.max(1, keepdim=True)
        other_confidence, other_winner = others.max(1, keepdim=True)
        sure, other_sure = confidence >= self.threshold, other_confidence >= self.threshold
        if self.mode == "foreground_xor":
            return (sure & (winner > 0)) ^ (other_sure & (other_winner > 0))
        return (winner != other_winner) & (sure | other_sure)
