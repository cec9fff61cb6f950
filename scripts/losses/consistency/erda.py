# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss

from ..renamed import renamed
from ..voxelwise import check_logits, check_matching, checked_mask, full_precision, reduce_voxels

__all__ = ["ERDALoss"]


@renamed(__call__={"pseudo": "other"})
class ERDALoss(_Loss):
    r"""
    Entropy regularisation and distribution alignment: soft pseudo-labels and predictions learn from each other.

    For pseudo-labels :math:`p` (for example of :class:`~.PrototypePseudoLabeler`) and predictions :math:`q`,

    .. math::
        L = w \cdot \mathrm{mean}\big(\lambda H(p) + \mathrm{KL}(p \Vert q)\big), \qquad H(p) = -\sum_c p_c \log p_c

    over all voxels, sure or not, with a gradient through both sides. With :math:`\lambda = 1` it is the cross entropy
    :math:`-\sum_c p_c \log q_c`.

    Tang et al., "All Points Matter: Entropy-Regularized Distribution Alignment for Weakly-supervised 3D Segmentation",
    NeurIPS 2023, https://arxiv.org/abs/2305.15832, and its modality-agnostic sequel, https://arxiv.org/abs/2408.16520.

    Example:
        >>> import torch
        >>> uniform = torch.zeros(1, 2, 4, 4)
        >>> round(ERDALoss(weight=1.0)(uniform, uniform).item(), 4)  # log 2 of entropy, no divergence
        0.6931
    """

    def __init__(self, entropy_weight: float = 1.0, weight: float = 0.1, reduction: str = "mean") -> None:
        """
        Args:
            entropy_weight: lambda, at least 0.
            weight: w, the factor on the whole loss, at least 0; the paper's is 0.1.
            reduction: {``"none"``, ``"mean"``, ``"sum"``}
                ``"mean"`` is over the voxels of the mask; ``"none"`` gives a map [B, 1, *spatial].

        Raises:
            ValueError: When a weight is below 0, or ``reduction`` is none of the options.
        """
        super().__init__(reduction=LossReduction(reduction).value)
        if not (entropy_weight >= 0 and weight >= 0):
            raise ValueError(f"entropy_weight and weight must be at least 0, got {entropy_weight} and {weight}")
        self.entropy_weight = float(entropy_weight)
        self.weight = float(weight)

    def forward(self, input: torch.Tensor, other: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the prediction q.
            other: logits [B, C, *spatial] of the pseudo-labels p, trained too; detach them to train ``input`` only.
            mask: bool [B, 1, *spatial], True where a voxel counts. Defaults to all voxels.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input")
        check_matching(input, other, "input", "other")
        mask = checked_mask(mask, input)
        log_p, log_q = full_precision(other).log_softmax(1), full_precision(input).log_softmax(1)
        # lambda H(p) + KL(p || q) = sum p ((1 - lambda) log p - log q)
        loss = (log_p.exp() * ((1.0 - self.entropy_weight) * log_p - log_q)).sum(1, keepdim=True)
        return self.weight * reduce_voxels(loss, mask, self.reduction)
