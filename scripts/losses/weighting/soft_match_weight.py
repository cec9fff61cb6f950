# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..running_mean import RunningMean, sum_over_ranks
from ..voxelwise import check_classes, check_logits, full_precision

__all__ = ["SoftMatchWeight"]

# Below this the variance of the confidences is rounding.
SMALLEST_VARIANCE = 1e-10


class SoftMatchWeight(nn.Module):
    r"""
    Weight of a voxel from a teacher's confidence: 1 above the mean confidence, a Gaussian's flank below it.

    With moving averages :math:`\mu, \sigma^2` of the mean and the variance of the confidences of the batches,

    .. math::
        w = \exp\Big(-\frac{n^2 \min(\max_c t_c - \mu, 0)^2}{2 \sigma^2}\Big)

    They start at 1 / C and 1, move in training mode only, before they are used, and are over all ranks when
    ``torch.distributed`` is initialised; every rank must then call the module at every step. Nothing has a gradient.

    Chen et al., "SoftMatch: Addressing the Quantity-Quality Trade-off in Semi-supervised Learning", ICLR 2023,
    https://arxiv.org/abs/2301.10921. Its uniform alignment is :class:`~.DistributionAlignment` before this.

    Attributes:
        mean: :class:`~.RunningMean` of one number, mu.
        variance: :class:`~.RunningMean` of one number, sigma squared.

    Example:
        >>> import torch
        >>> weight = SoftMatchWeight(num_classes=2, momentum=0.0)
        >>> p = torch.tensor([[[[0.9, 0.8, 0.7, 0.6]], [[0.1, 0.2, 0.3, 0.4]]]])
        >>> [round(w, 3) for w in weight.from_probabilities(p).flatten().tolist()]
        [1.0, 1.0, 0.741, 0.067]
    """

    def __init__(self, num_classes: int, momentum: float = 0.999, n_sigma: float = 2.0) -> None:
        """
        Args:
            num_classes: number of classes C, background included.
            momentum: of the moving averages, in [0, 1].
            n_sigma: n, how many times narrower the flank is than the confidences' own Gaussian, above 0.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        check_classes(num_classes)
        if not n_sigma > 0:
            raise ValueError(f"n_sigma must be above 0, got {n_sigma}")
        self.n_sigma = float(n_sigma)
        self.num_classes = num_classes
        self.mean = RunningMean(torch.full((1,), 1 / num_classes), momentum)
        self.variance = RunningMean(torch.ones(1), momentum)

    @torch.no_grad()
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the teacher.

        Returns:
            Weights in [0, 1], [B, 1, *spatial].

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input", self.num_classes)
        return self.from_probabilities(full_precision(input).softmax(1))

    @torch.no_grad()
    def from_probabilities(self, p: torch.Tensor) -> torch.Tensor:
        """As :meth:`forward`, for probabilities [B, C, *spatial] that are already at hand."""
        confidence = full_precision(p).max(1, keepdim=True)[0]
        if self.training:
            self._update(confidence)
        below = (confidence - self.mean.value.to(confidence.dtype)).clamp(max=0.0)
        variance = self.variance.value.to(confidence.dtype).clamp(min=SMALLEST_VARIANCE)
        return torch.exp(-((below * self.n_sigma).square() / (2 * variance)))

    def _update(self, confidence: torch.Tensor) -> None:
        # Sums of differences from the old mean: those of the squares themselves would cancel in float32.
        gaps = confidence - self.mean.value
        total = sum_over_ranks(
            torch.stack([gaps.sum(), gaps.square().sum(), torch.full_like(gaps.sum(), gaps.numel())])
        ).to(self.mean.value)
        count = total[2]
        gap, square = total[:2] / count.clamp(min=1)
        variance = (square - gap.square()).clamp(min=0.0) * count / (count - 1).clamp(min=1)
        self.mean.move(self.mean.value + gap, count > 0)
        self.variance.move(variance.view(1), count > 1)
