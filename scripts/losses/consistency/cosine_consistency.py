# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss

from ..voxelwise import check_logits, check_matching, checked_mask, full_precision, reduce_voxels

__all__ = ["CosineConsistencyLoss", "cosine_distance"]


def cosine_distance(p: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """1 - cosine over the channels of two probability maps [B, C, *spatial]: a map [B, 1, *spatial], never negative."""
    # (|p - q|^2 - (|p| - |q|)^2) / (2 |p| |q|) loses no digits where the maps are alike; lengths are above 0.
    length = p.square().sum(1, keepdim=True).sqrt()
    other_length = other.square().sum(1, keepdim=True).sqrt()
    gap = (p - other).square().sum(1, keepdim=True)
    return (gap - (length - other_length).square()) / (2 * length * other_length)


class CosineConsistencyLoss(_Loss):
    r"""
    One minus the cosine of the angle between two networks' class probabilities, per voxel. Trains both networks.

    .. math::
        L = \mathrm{mean}\big(1 - \cos(p_a, p_b)\big)

    Lu et al., "Enhancing Dual Network Based Semi-Supervised Medical Image Segmentation with Uncertainty-Guided
    Pseudo-Labeling", Knowledge-Based Systems 2025, https://arxiv.org/abs/2509.13084 (term 5 of the method).

    Example:
        >>> import torch
        >>> a = torch.tensor([[[[9.0]], [[-9.0]]]])
        >>> round(CosineConsistencyLoss()(a, -a).item(), 4)  # opposite and sure
        1.0
    """

    def __init__(self, reduction: str = "mean") -> None:
        """
        Args:
            reduction: {``"none"``, ``"mean"``, ``"sum"``}
                ``"mean"`` is over the voxels of the mask; ``"none"`` gives a map [B, 1, *spatial].

        Raises:
            ValueError: When ``reduction`` is none of the options.
        """
        super().__init__(reduction=LossReduction(reduction).value)

    def forward(self, input: torch.Tensor, other: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of one network.
            other: logits [B, C, *spatial] of the other; detach it to train ``input`` only.
            mask: bool [B, 1, *spatial], True where a voxel counts. Defaults to all voxels.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input")
        check_matching(input, other, "input", "other")
        mask = checked_mask(mask, input)
        distance = cosine_distance(full_precision(input).softmax(1), full_precision(other).softmax(1))
        return reduce_voxels(distance, mask, self.reduction)
