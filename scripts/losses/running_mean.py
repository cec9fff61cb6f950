# SPDX-License-Identifier: Apache-2.0
"""Moving averages of what a batch says, over all ranks of a distributed run."""

from __future__ import annotations

import torch
from torch import distributed, nn

__all__ = ["RunningMean", "class_counts", "sum_over_ranks"]


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``tensor`` over all ranks when ``torch.distributed`` is initialised, else ``tensor`` itself."""
    if distributed.is_available() and distributed.is_initialized():
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
    return tensor


def class_counts(labels: torch.Tensor, counted: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Number of voxels of each class [C] among those ``counted`` (bool), for class maps of the same shape."""
    # Integers: a float32 that is counted up by one stops at 2 ** 24, and a volume has more voxels.
    counts = torch.zeros(num_classes, dtype=torch.int64, device=labels.device)
    return counts.scatter_add_(0, labels.flatten(), counted.flatten().long())


class RunningMean(nn.Module):
    """
    Exponential moving average of the means of batches, entry by entry. A mean that is not finite is ignored.

    Attributes:
        value: buffer [n], the average.
        seen: bool buffer [n], True for the entries that were moved.

    Example:
        >>> import torch
        >>> mean = RunningMean(torch.ones(2), momentum=0.75)
        >>> mean.update(torch.tensor([10.0, 0.0]), torch.tensor([2, 0]))
        >>> mean.value.tolist()
        [2.0, 1.0]
    """

    value: torch.Tensor
    seen: torch.Tensor

    def __init__(self, initial: torch.Tensor, momentum: float, keep_initial: bool = True) -> None:
        """
        Args:
            initial: the average before the first batch, [n].
            momentum: share of the old average in the new one, in [0, 1].
            keep_initial: whether ``initial`` has its share in the first average, or is replaced by the first mean.

        Raises:
            ValueError: When ``momentum`` is not in [0, 1].
        """
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        self.momentum = float(momentum)
        self.keep_initial = keep_initial
        self.register_buffer("value", initial.clone())
        self.register_buffer("seen", torch.zeros(initial.shape, dtype=torch.bool))

    @torch.no_grad()
    def update(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """
        Move the average towards the mean over all ranks; every rank must call this at every step.

        Args:
            sums: sum over this rank's batch, [n].
            counts: number of its summands, [n].
        """
        sums, counts = sum_over_ranks(torch.stack([sums.to(self.value), counts.to(self.value)]))
        self.move(sums / counts.clamp(min=1), counts > 0)

    @torch.no_grad()
    def move(self, means: torch.Tensor, exist: torch.Tensor) -> None:
        """Move the average towards ``means`` [n] where they ``exist`` (bool [n]); all ranks pass the same."""
        exist = exist & means.isfinite()
        moved = self.momentum * self.value + (1 - self.momentum) * means
        if not self.keep_initial:
            moved = torch.where(self.seen, moved, means)
        self.value.copy_(torch.where(exist, moved, self.value))
        self.seen.logical_or_(exist)
