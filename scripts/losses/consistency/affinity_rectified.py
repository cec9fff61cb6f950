# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.utils import LossReduction
from torch.nn.functional import interpolate
from torch.nn.modules.loss import _Loss

from ..contrastive.feature_maps import check_features, unit, wide_features
from ..voxelwise import check_logits, check_matching, full_precision, reduce_voxels

__all__ = ["AffinityRectifiedLoss"]


class AffinityRectifiedLoss(_Loss):
    r"""
    Consistency of predictions that were spread along feature affinity, on a coarse grid.

    Probabilities and features are averaged over cells of ``stride`` voxels. With the affinity of the cells

    .. math::
        A_{ij} = \mathrm{softmax}_j\big(\hat h_i \cdot \hat h_j / \tau\big), \qquad
        L = \mathrm{mean}_i \, \tfrac12 \big\lVert (A p)_i - (A' t)_i \big\rVert^2

    where :math:`A, p` are of the student and :math:`A', t` of the teacher, which is constant. The student's
    probabilities and its features are trained.

    **A reconstruction** from the abstract of "SemSim: Revisiting Weak-to-Strong Consistency from a Semantic Similarity
    Perspective for Semi-supervised Medical Image Segmentation", https://arxiv.org/abs/2410.13486; the squared
    error and the temperature are ours.

    Example:
        >>> import torch
        >>> logits, features = torch.randn(1, 2, 16, 16), torch.randn(1, 4, 16, 16)
        >>> AffinityRectifiedLoss()(logits, features, logits, features).item()
        0.0
    """

    def __init__(self, stride: int = 8, temperature: float = 0.1, reduction: str = "mean") -> None:
        """
        Args:
            stride: side of a cell in voxels of the logits, at least 1; the affinity takes memory with the square of the
                number of cells.
            temperature: tau, above 0.
            reduction: {``"none"``, ``"mean"``, ``"sum"``}
                ``"mean"`` is over the cells; ``"none"`` gives a map [B, 1, *cells].

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__(reduction=LossReduction(reduction).value)
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.stride = stride
        self.temperature = float(temperature)

    def forward(
        self,
        input: torch.Tensor,
        features: torch.Tensor,
        teacher: torch.Tensor,
        teacher_features: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the student.
            features: features [B, E, *feature_spatial] of the student; the spatial size is that of the logits or
                smaller by an integer factor.
            teacher: logits [B, C, *spatial] of the teacher; get no gradient.
            teacher_features: features [B, E', *feature_spatial] of the teacher; get no gradient.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input")
        check_matching(input, teacher, "input", "teacher")
        check_features(features, input)
        check_features(teacher_features, input)
        with torch.autocast(input.device.type, enabled=False):
            spread = self._spread(full_precision(input), wide_features(features))
            target = self._spread(full_precision(teacher.detach()), full_precision(teacher_features.detach()))
            loss = (spread - target).square().sum(1, keepdim=True) / 2
        return reduce_voxels(loss, None, self.reduction)

    def _spread(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        if logits.numel() == 0:
            return logits + 0.0 * features.sum()
        size = [max(side // self.stride, 1) for side in logits.shape[2:]]
        p = interpolate(logits.softmax(1), size, mode="area")
        directions = unit(interpolate(features, size, mode="area").flatten(2).transpose(1, 2))
        affinity = (directions @ directions.transpose(1, 2) / self.temperature).softmax(-1)
        return (affinity @ p.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(p.shape)
