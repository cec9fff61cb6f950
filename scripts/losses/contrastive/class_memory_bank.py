# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..voxelwise import check_classes

__all__ = ["ClassMemoryBank"]


class ClassMemoryBank(nn.Module):
    """
    The latest features of every class, in a ring of fixed size per class whose unfilled rows are never drawn.

    The state is in buffers, so it is checkpointed and moves with the module. Each rank of a distributed run keeps a
    bank of its own; under DistributedDataParallel with ``broadcast_buffers`` that of rank 0 replaces the others.

    Jiang et al., "Guided Point Contrastive Learning for Semi-supervised Point Cloud Semantic Segmentation", ICCV 2021,
    https://arxiv.org/abs/2110.08188.

    Attributes:
        features: buffer [num_classes, size, feature_channels].
        filled: buffer [num_classes], number of rows that hold a feature.
        cursor: buffer [num_classes], row that is written next.

    Example:
        >>> import torch
        >>> bank = ClassMemoryBank(num_classes=2, feature_channels=1, size=4)
        >>> bank.push(torch.ones(2, 3, 1), torch.tensor([[True, True, False], [False, False, False]]))
        >>> bank.filled.tolist()
        [2, 0]
        >>> negatives, valid = bank.draw(8)
        >>> bool((negatives[0] == 1).all()), valid[:, 0].tolist()
        (True, [True, False])
    """

    features: torch.Tensor
    filled: torch.Tensor
    cursor: torch.Tensor

    def __init__(self, num_classes: int, feature_channels: int, size: int = 10_000) -> None:
        """
        Args:
            num_classes: number of classes, at least 2, background included.
            feature_channels: channels of the features, at least 1.
            size: features kept of each class, at least 1.

        Raises:
            ValueError: When an argument is out of its range.
        """
        super().__init__()
        check_classes(num_classes)
        if feature_channels < 1 or size < 1:
            raise ValueError(f"feature_channels and size must be at least 1, got {feature_channels} and {size}")
        self.register_buffer("features", torch.zeros(num_classes, size, feature_channels))
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("cursor", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def push(self, features: torch.Tensor, valid: torch.Tensor) -> None:
        """
        Write features over the oldest ones. Features that are not finite are ignored.

        Args:
            features: [num_classes, n, feature_channels]; of more than ``size``, the first ``size`` are kept.
            valid: bool [num_classes, n], the features to write.
        """
        size = self.features.shape[1]
        features, valid = features[:, :size].to(self.features), valid[:, :size]
        valid, first = (valid & features.isfinite().all(-1)).sort(dim=1, descending=True, stable=True)
        features = features.take_along_dim(first[..., None], 1)
        offsets = torch.arange(valid.shape[1], device=valid.device)
        rows = (self.cursor[:, None] + offsets) % size
        classes = torch.arange(valid.shape[0], device=valid.device)[:, None]
        self.features[classes, rows] = torch.where(valid[..., None], features, self.features[classes, rows])
        written = valid.sum(1)
        self.cursor.copy_((self.cursor + written) % size)
        self.filled.copy_((self.filled + written).clamp(max=size))

    @torch.no_grad()
    def draw(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Draw ``number`` features of each class at random, with replacement, from the rows that are filled.

        Returns:
            Features [num_classes, number, feature_channels], and which of them exist, bool [num_classes, number].
        """
        num_classes = self.features.shape[0]
        lots = torch.rand(num_classes, number, device=self.features.device)
        rows = torch.minimum((lots * self.filled[:, None]).long(), (self.filled[:, None] - 1).clamp(min=0))
        classes = torch.arange(num_classes, device=rows.device)[:, None]
        return self.features[classes, rows], (self.filled > 0)[:, None].expand(num_classes, number)
