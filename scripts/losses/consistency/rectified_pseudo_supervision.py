# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss

from ..renamed import renamed
from .uncertainty_weighted_cross_pseudo import UncertaintyWeightedCrossPseudoLoss

__all__ = ["RectifiedPseudoSupervisionLoss"]


@renamed(__init__={"kl_weight": "gamma"})
class RectifiedPseudoSupervisionLoss(_Loss):
    r"""
    Pseudo supervision of several augmented views by the prediction on the plain image, rectified by their divergence.

    The mean over the views of :class:`~.UncertaintyWeightedCrossPseudoLoss`:

    .. math::
        L = \frac1V \sum_{v=1}^{V} \mathrm{mean}\Big(e^{-d_v} \cdot \big(-\sum_c q_c \log p_{v,c}\big)\Big)
            + \gamma \, \mathrm{mean}(d_v), \qquad d_v = \mathrm{KL}(t \Vert p_v), \quad
        q = \mathrm{softmax}(z_t / T)

    Views that were flipped, rotated or scaled must be brought back to the grid of the plain image before.

    Zhao et al., "RCPS: Rectified Contrastive Pseudo Supervision for Semi-Supervised Medical Image Segmentation", IEEE
    JBHI 2023, https://arxiv.org/abs/2301.05500. The weight is a constant here, as in the method this library is for.

    Example:
        >>> import torch
        >>> plain, noisy, dark = torch.zeros(3, 1, 2, 4, 4)
        >>> round(RectifiedPseudoSupervisionLoss()([noisy, dark], plain).item(), 4)
        0.6931
    """

    def __init__(self, temperature: float = 0.5, gamma: float = 1.0, reduction: str = "mean") -> None:
        """
        Args:
            temperature: T of the soft targets, above 0; below 1 it sharpens them.
            gamma: weight of the divergence, at least 0.
            reduction: {``"none"``, ``"mean"``, ``"sum"``}
                Over the voxels of the mask; ``"none"`` gives a map [B, 1, *spatial]. The views are always averaged.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__(reduction=LossReduction(reduction).value)
        self.per_view = UncertaintyWeightedCrossPseudoLoss(temperature, gamma, reduction=reduction)

    def forward(
        self, views: Sequence[torch.Tensor], teacher: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            views: logits [B, C, *spatial] of at least one augmented view; these are trained.
            teacher: logits [B, C, *spatial] of the plain image; gets no gradient.
            mask: bool [B, 1, *spatial], True where a voxel counts. Defaults to all voxels.

        Raises:
            ValueError: When there is no view, or a shape or dtype does not fit, naming it.
        """
        if isinstance(views, torch.Tensor) or len(views) == 0:
            raise ValueError(f"views must be a sequence of at least one logits tensor, got {type(views).__name__}")
        return torch.stack([self.per_view(view, teacher, mask) for view in views]).mean(0)
