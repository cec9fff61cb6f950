# SPDX-License-Identifier: Apache-2.0
"""What the losses on features share: reading label maps at the features' resolution, class means, sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..voxelwise import full_precision, plain

__all__ = [
    "at_feature_resolution",
    "check_features",
    "class_sums",
    "draw_per_class",
    "inverse_length",
    "shortened",
    "take",
    "unit",
    "wide_features",
]

# Far beyond this the square of a float32, summed over the channels, is infinite.
LARGEST_FEATURE = 1e15

# A feature shorter than this has no direction: its unit vector, and the gradient through it, are zero.
SHORTEST_FEATURE = 1e-6


def check_features(features: torch.Tensor, logits: torch.Tensor, channels: int | None = None) -> None:
    """Raise a ValueError unless features are [B, E, *S'] for logits [B, C, *S], each S a multiple of its S'."""
    if features.dim() != logits.dim() or features.shape[0] != logits.shape[0] or not features.is_floating_point():
        raise ValueError(
            f"features must be floating point [B, E, *spatial] for {logits.shape}, "
            f"got {features.dtype} {features.shape}"
        )
    if channels is not None and features.shape[1] != channels:
        raise ValueError(f"features must have feature_channels={channels} channels, got {features.shape}")
    for full, reduced in zip(logits.shape[2:], features.shape[2:], strict=True):
        if full % reduced if reduced else full:
            raise ValueError(
                f"the spatial size of features must be that of the logits divided by integers, "
                f"got {tuple(features.shape[2:])} and {tuple(logits.shape[2:])}"
            )


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: torch.Tensor) -> torch.Tensor:
        return features.float()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        largest = torch.finfo(torch.float16).max
        return gradient.clamp(-largest, largest).half()


def wide_features(features: torch.Tensor) -> torch.Tensor:
    """As :func:`~.full_precision`; the gradient of float16 features is clamped to what float16 can hold.

    The gradient through the direction of a feature grows with the inverse of its length, so without the clamp that of a
    short feature would be infinite.
    """
    features = plain(features)
    return _Widened.apply(features) if features.dtype == torch.float16 else full_precision(features)


def at_feature_resolution(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Read ``maps`` [B, C, *S] at the central voxel of each cell of a coarser grid: [B, C, *size]."""
    for axis, reduced in enumerate(size, start=2):
        factor = maps.shape[axis] // max(reduced, 1)
        if factor > 1:
            index = [slice(None)] * maps.dim()
            index[axis] = slice(factor // 2, None, factor)
            maps = maps[tuple(index)]
    return maps


def shortened(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    """Scale vectors along ``dim`` down where they are so long that their squared length would be infinite."""
    longest = vectors.detach().abs().amax(dim, keepdim=True)
    return vectors * torch.where(longest > LARGEST_FEATURE, LARGEST_FEATURE / longest, 1.0)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Divide vectors by their length along the last axis; a zero vector stays zero and has a zero gradient."""
    vectors = shortened(vectors, -1)
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.masked_fill(length < SHORTEST_FEATURE, float("inf"))


def inverse_length(maps: torch.Tensor) -> torch.Tensor:
    """1 / length of the features in maps [B, E, *spatial]: [B, 1, *spatial], zero where :func:`unit` is zero."""
    square = maps.square().sum(1, keepdim=True)
    too_short = square < SHORTEST_FEATURE**2
    return square.masked_fill(too_short, float("inf")).rsqrt()


def class_sums(
    features: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor,
    num_classes: int,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of features [C, E] and number of voxels [C] of each class among the voxels of ``mask``, or of their weights.

    Args:
        features: [B, E, *spatial].
        labels: class maps [B, 1, *spatial].
        mask: bool [B, 1, *spatial].
        num_classes: C.
        weight: how much each voxel counts, at least 0, [B, 1, *spatial]. Defaults to 1.
    """
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1)
    members = ((labels.flatten(2) == classes) & mask.flatten(2)).to(features.dtype)
    if weight is not None:
        members = members * weight.flatten(2).to(features.dtype)
    sums = torch.bmm(members, features.flatten(2).transpose(1, 2)).sum(0)
    return sums, members.sum((0, 2))


def take(maps: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Read [..., E] from maps [B, E, *spatial] at positions [...] among its B * voxels.

    Where positions are repeated, the gradient of indexing is summed by several threads in any order, so that a training
    cannot be repeated bit for bit; that of ``index_select`` is not.
    """
    channels, voxels = maps.shape[1], max(maps.shape[2:].numel(), 1)
    of_image = (index // voxels * channels * voxels + index % voxels).unsqueeze(-1)
    places = of_image + voxels * torch.arange(channels, device=index.device)
    return maps.reshape(-1).index_select(0, places.flatten()).view(places.shape)


def draw_per_class(
    groups: torch.Tensor, num_classes: int, fraction: float, minimum: int, maximum: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw voxels of each class at random, without replacement and without waiting for the device.

    Args:
        groups: class [B, 1, *spatial] that a voxel may be drawn for, -1 for none.
        num_classes: C.
        fraction: share of a class's voxels to draw.
        minimum: number of voxels of a class at least, as far as it has that many.
        maximum: number of voxels of a class at most.

    Returns:
        Positions among the B * voxels, int64 [C, maximum] (fewer where there are fewer voxels), and which of them were
        drawn, bool of the same shape. The drawn ones of a class come first.
    """
    groups = groups.flatten()
    classes = torch.arange(num_classes, device=groups.device)[:, None]
    lots = torch.where(groups == classes, torch.rand(groups.shape, device=groups.device), -1.0)
    lots, index = lots.topk(min(maximum, groups.numel()), dim=1)
    wanted = ((groups == classes).sum(1, keepdim=True) * fraction).clamp(minimum, maximum)
    return index, (lots >= 0) & (torch.arange(lots.shape[1], device=lots.device) < wanted)
