# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..running_mean import RunningMean, class_counts
from ..voxelwise import check_classes, check_logits, checked_mask, full_precision, one_channel

__all__ = ["DistributionAlignment"]

# A class's share counts as this at least, so that no ratio of shares is infinite and no voxel loses all its classes.
SMALLEST_SHARE = 1e-6


class DistributionAlignment(nn.Module):
    r"""
    Scales a teacher's probabilities so that its classes get, on average, the shares they have among labelled voxels.

    With the moving average :math:`\bar t` of the teacher's mean probabilities and the target shares :math:`q`,

    .. math::
        \tilde t_c = \frac{t_c \, q_c / \bar t_c}{\sum_k t_k \, q_k / \bar t_k}

    The target is a moving average of the class shares of the batches given to :meth:`update`, and uniform before the
    first one. :math:`\bar t` starts uniform and moves in training mode only, before it is used. Both are over all ranks
    when ``torch.distributed`` is initialised; every rank must then make the same calls. Nothing has a gradient.

    Berthelot et al., "ReMixMatch: Semi-Supervised Learning with Distribution Alignment and Augmentation Anchoring",
    ICLR 2020, https://arxiv.org/abs/1911.09785, which averages over the last 128 batches. In volumes the shares of a
    crop depend on where it was cut: labelled and unlabelled crops should be cut alike.

    Attributes:
        target: :class:`~.RunningMean` of C numbers, q.
        predicted: :class:`~.RunningMean` of C numbers, the mean probabilities.

    Example:
        >>> import torch
        >>> alignment = DistributionAlignment(num_classes=2, momentum=0.0)
        >>> alignment.update(torch.tensor([[[[0, 0, 0, 1]]]]))
        >>> p = torch.tensor([[[[0.5, 0.5]], [[0.5, 0.5]]]])
        >>> alignment.from_probabilities(p)[0, :, 0, 0].tolist()
        [0.75, 0.25]
    """

    def __init__(self, num_classes: int, momentum: float = 0.999) -> None:
        """
        Args:
            num_classes: number of classes C, background included.
            momentum: of the moving averages, in [0, 1].

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        check_classes(num_classes)
        uniform = torch.full((num_classes,), 1 / num_classes)
        self.target = RunningMean(uniform, momentum, keep_initial=False)
        self.predicted = RunningMean(uniform, momentum)

    @torch.no_grad()
    def update(self, labels: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """
        Move the target towards the class shares of labelled voxels.

        Args:
            labels: ground truth class maps [B, 1, *spatial], values in [0, C).
            mask: bool [B, 1, *spatial], True where the label is known. Defaults to all voxels.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        labels = one_channel(labels, labels, "labels")
        mask = checked_mask(mask, labels)
        counts = class_counts(labels, torch.ones_like(labels) if mask is None else mask, len(self.target.value))
        self.target.update(counts, counts.sum().expand_as(counts))

    @torch.no_grad()
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input: logits [B, C, *spatial] of the teacher.

        Returns:
            Aligned probabilities [B, C, *spatial].

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input", len(self.target.value))
        return self.from_probabilities(full_precision(input).softmax(1))

    @torch.no_grad()
    def from_probabilities(self, p: torch.Tensor) -> torch.Tensor:
        """As :meth:`forward`, for probabilities [B, C, *spatial] that are already at hand."""
        p = full_precision(p)
        if self.training:
            sums = p.flatten(2).sum((0, 2))
            self.predicted.update(sums, torch.full_like(sums, p[:, :1].numel()))
        ratio = self.target.value.clamp(min=SMALLEST_SHARE) / self.predicted.value.clamp(min=SMALLEST_SHARE)
        scaled = p * ratio.to(p.dtype).view(1, -1, *[1] * (p.dim() - 2))
        return scaled / scaled.sum(1, keepdim=True)
