# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..renamed import renamed
from ..voxelwise import check_logits, check_matching, full_precision

__all__ = ["PairUncertaintyWeight"]


@renamed(__call__={"student": "input", "pair_student": "pair_input"})
class PairUncertaintyWeight(nn.Module):
    r"""
    Weight of a pair of samples in a contrastive or triplet loss, from how sure a student and its teacher are of each.

    .. math::
        w_x = e^{-\mathrm{KL}(t_x \Vert p_x)}, \qquad w_{xy} = \mathrm{mean}, \max \text{ or } \min \text{ of } w_x, w_y

    for the student's :math:`p` and the teacher's :math:`t`. Nothing has a gradient. Weights are in [0, 1].

    Zheng et al., "Exploiting Sample Uncertainty for Domain Adaptive Person Re-Identification", AAAI 2021,
    https://arxiv.org/abs/2012.08733.

    Example:
        >>> import torch
        >>> sure, unsure = torch.zeros(2, 1, 2, 4, 4)
        >>> unsure = unsure + torch.tensor([3.0, -3.0]).view(1, 2, 1, 1)
        >>> weight = PairUncertaintyWeight(combine="max")(sure, sure, unsure, sure)
        >>> weight.unique().tolist()
        [1.0]
    """

    def __init__(self, combine: str = "mean") -> None:
        """
        Args:
            combine: {``"mean"``, ``"max"``, ``"min"``}. Defaults to ``"mean"``.

        Raises:
            ValueError: When ``combine`` is none of the options.
        """
        super().__init__()
        if combine not in ("mean", "max", "min"):
            raise ValueError(f"combine must be 'mean', 'max' or 'min', got {combine!r}")
        self.combine = combine

    @torch.no_grad()
    def forward(
        self, input: torch.Tensor, teacher: torch.Tensor, pair_input: torch.Tensor, pair_teacher: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            input: the student's logits [B, C, *spatial] of the one sample of each pair.
            teacher: the teacher's logits [B, C, *spatial] of it.
            pair_input: the student's logits [B, C, *spatial] of the other sample of each pair.
            pair_teacher: the teacher's logits [B, C, *spatial] of it.

        Returns:
            Weights [B, 1, *spatial].

        Raises:
            ValueError: When a shape does not fit, naming the shapes.
        """
        check_logits(input, "input")
        check_matching(input, teacher, "input", "teacher")
        check_matching(input, pair_input, "input", "pair_input")
        check_matching(input, pair_teacher, "input", "pair_teacher")
        one, other = _certainty(input, teacher), _certainty(pair_input, pair_teacher)
        if self.combine == "mean":
            return (one + other) / 2
        return torch.maximum(one, other) if self.combine == "max" else torch.minimum(one, other)


def _certainty(input: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    log_p, log_t = full_precision(input).log_softmax(1), full_precision(teacher).log_softmax(1)
    return torch.exp(-(log_t.exp() * (log_t - log_p)).sum(1, keepdim=True).clamp(min=0))
