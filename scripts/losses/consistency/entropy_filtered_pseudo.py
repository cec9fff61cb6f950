# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss

from ..voxelwise import check_logits, checked_mask, full_precision, one_channel, reduce_voxels

__all__ = ["EntropyFilteredPseudoLoss"]


class EntropyFilteredPseudoLoss(_Loss):
    r"""
    Cross entropy to pseudo-labels on the reliable voxels, averaged over those voxels only.

    .. math::
        L = \frac{\sum_{v \in R} -\log p_{v, \hat y_v}}{\max(|R|, 1)}

    The labels :math:`\hat y` and the reliable voxels :math:`R` come from
    :class:`~.EntropyFilteredPseudoLabeler` or any other pseudo-labeller. ``monai.losses.MaskedLoss`` is no substitute:
    it multiplies logits by the mask, and so trains the voxels it should leave out.

    Lu et al., "Enhancing Dual Network Based Semi-Supervised Medical Image Segmentation with Uncertainty-Guided
    Pseudo-Labeling", Knowledge-Based Systems 2025, https://arxiv.org/abs/2509.13084 (term 4 of the method).

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> labels = torch.zeros(1, 1, 4, 4, dtype=torch.int64)
        >>> mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
        >>> mask[..., 0, 0] = True
        >>> round(EntropyFilteredPseudoLoss()(logits, labels, mask).item(), 4)
        0.6931
    """

    def __init__(self, reduction: str = "mean") -> None:
        """
        Args:
            reduction: {``"none"``, ``"mean"``, ``"sum"``}
                ``"mean"`` is over the reliable voxels; ``"none"`` gives a map [B, 1, *spatial], zero elsewhere.

        Raises:
            ValueError: When ``reduction`` is none of the options.
        """
        super().__init__(reduction=LossReduction(reduction).value)

    def forward(self, input: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the network to train.
            labels: pseudo-labels, class maps [B, 1, *spatial] with values in [0, C).
            mask: reliable voxels, bool [B, 1, *spatial]. Defaults to all voxels.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input")
        labels = one_channel(labels, input, "labels")
        mask = checked_mask(mask, input)
        return reduce_voxels(-full_precision(input).log_softmax(1).gather(1, labels), mask, self.reduction)
