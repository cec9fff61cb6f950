# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import torch
from torch import nn

from ..renamed import renamed
from ..voxelwise import check_logits, check_matching, full_precision

__all__ = ["TemporalAgreementWeight"]


@renamed(__call__={"student": "input"})
class TemporalAgreementWeight(nn.Module):
    r"""
    Weight of a voxel from how far a student agrees with a fast and a slow moving average of itself.

    .. math::
        w = 1 - \mathrm{JSD}(p_{student}, p_{fast}, p_{slow}) / \log \min(3, C), \qquad
        \mathrm{JSD} = H\big(\bar p\big) - \overline{H(p)}

    with means over the three predictions. 1 is full agreement; a prediction that the training keeps changing gets a
    low weight. Nothing has a gradient. Weights are in [0, 1].

    What carries over from Jacobson et al., "TrajSSL: Trajectory-Enhanced Semi-Supervised 3D Object Detection",
    https://arxiv.org/abs/2409.10901, to segmentation: pseudo-labels that are consistent over time are trusted. There
    time is that of the scene, here that of the training; motion forecasting is out of scope. The formula is ours.

    Example:
        >>> import torch
        >>> logits = torch.randn(1, 3, 4, 4)
        >>> weight = TemporalAgreementWeight()(logits, logits, logits)
        >>> bool(torch.allclose(weight, torch.ones_like(weight)))
        True
    """

    @torch.no_grad()
    def forward(self, input: torch.Tensor, fast: torch.Tensor, slow: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the student.
            fast: logits [B, C, *spatial] of its fast moving average.
            slow: logits [B, C, *spatial] of its slow moving average.

        Returns:
            Weights [B, 1, *spatial].

        Raises:
            ValueError: When a shape does not fit, naming the shapes.
        """
        check_logits(input, "input")
        check_matching(input, fast, "input", "fast")
        check_matching(input, slow, "input", "slow")
        log_p = torch.stack([full_precision(z).log_softmax(1) for z in (input, fast, slow)])
        p = log_p.exp()
        mean_entropy = -(p * log_p).sum(2, keepdim=True).mean(0)
        mixture = p.mean(0)
        mixture_entropy = -torch.xlogy(mixture, mixture).sum(1, keepdim=True)
        divergence = mixture_entropy - mean_entropy
        return (1 - divergence / math.log(min(3, input.shape[1]))).clamp(0.0, 1.0)
