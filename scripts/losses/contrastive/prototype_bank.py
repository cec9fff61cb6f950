# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..running_mean import sum_over_ranks
from ..voxelwise import check_classes

__all__ = ["PrototypeBank"]


class PrototypeBank(nn.Module):
    """
    One prototype per class: an exponential moving average of the class's mean feature over the batches it appeared in.

    The first mean of a class becomes its prototype. A mean that is not finite is ignored. The state is in buffers, so
    it is checkpointed and moves with the module. When ``torch.distributed`` is initialised the means are over all
    ranks, and every rank must call :meth:`update` at every step.

    Attributes:
        prototypes: buffer [num_classes, feature_channels].
        seen: bool buffer [num_classes], True for the classes that have a prototype.

    Example:
        >>> import torch
        >>> bank = PrototypeBank(num_classes=2, feature_channels=1, momentum=0.9)
        >>> bank.update(torch.tensor([[6.0], [0.0]]), torch.tensor([2.0, 0.0]))  # a mean of 3 for class 0
        >>> bank.update(torch.tensor([[13.0], [0.0]]), torch.tensor([1.0, 0.0]))
        >>> bank.prototypes.tolist(), bank.seen.tolist()
        ([[4.0], [0.0]], [True, False])
    """

    prototypes: torch.Tensor
    seen: torch.Tensor

    def __init__(self, num_classes: int, feature_channels: int, momentum: float = 0.99) -> None:
        """
        Args:
            num_classes: number of classes, at least 2, background included.
            feature_channels: channels of the features, at least 1.
            momentum: share of the old prototype in the new one, in [0, 1].

        Raises:
            ValueError: When an argument is out of its range.
        """
        super().__init__()
        check_classes(num_classes)
        if feature_channels < 1:
            raise ValueError(f"feature_channels must be at least 1, got {feature_channels}")
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        self.momentum = float(momentum)
        self.register_buffer("prototypes", torch.zeros(num_classes, feature_channels))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """
        Move the prototypes of the classes that are present towards this batch.

        Args:
            sums: sum of the features of each class over this rank's batch, [num_classes, feature_channels].
            counts: number of voxels of each class in it, or the sum of their weights, [num_classes].
        """
        total = sum_over_ranks(torch.cat([sums, counts[:, None].to(sums)], dim=1))
        sums, counts = total[:, :-1], total[:, -1]
        means = (sums / counts.clamp(min=torch.finfo(counts.dtype).tiny)[:, None]).to(self.prototypes)
        present = (counts > 0) & means.isfinite().all(1)
        moved = torch.where(self.seen[:, None], self.momentum * self.prototypes + (1 - self.momentum) * means, means)
        self.prototypes.copy_(torch.where(present[:, None], moved, self.prototypes))
        self.seen.logical_or_(present)
