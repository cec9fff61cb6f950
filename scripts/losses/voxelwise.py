# SPDX-License-Identifier: Apache-2.0
"""What every voxel-wise loss shares: checked shapes, full precision, reduction over the voxels that count.

Autocast lowers the precision of matrix products and convolutions only, so a loss made of element-wise operations on
tensors that went through :func:`full_precision` gives the same numbers with and without it (a test says so). The losses
that do multiply matrices switch autocast off around them.
"""

from __future__ import annotations

import torch

__all__ = [
    "check_logits",
    "check_matching",
    "checked_mask",
    "entropy_map",
    "full_precision",
    "one_channel",
    "plain",
    "reduce_voxels",
]


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` without what a subclass adds: a MetaTensor drags its metadata through every operation."""
    if not torch.jit.is_scripting():
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return tensor.as_subclass(torch.Tensor)
    return tensor


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` as a plain tensor of at least float32; float64 stays float64."""
    tensor = plain(tensor)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_logits(logits: torch.Tensor, name: str) -> None:
    """Raise a ValueError unless ``logits`` are floating point numbers of shape [B, C, *spatial] with C >= 2."""
    if not torch.is_floating_point(logits):
        raise ValueError(f"{name} must be floating point logits, got {logits.dtype}")
    if logits.dim() < 3 or logits.shape[1] < 2:
        raise ValueError(
            f"{name} must be logits of shape [B, C, *spatial] with C >= 2 (background is a class), got {logits.shape}"
        )


def check_matching(tensor: torch.Tensor, other: torch.Tensor, name: str, other_name: str) -> None:
    """Raise a ValueError unless the two tensors have the same shape."""
    if tensor.shape != other.shape:
        raise ValueError(f"{name} and {other_name} must have the same shape, got {tensor.shape} and {other.shape}")


def one_channel(labels: torch.Tensor, logits: torch.Tensor, name: str) -> torch.Tensor:
    """Return ``labels`` as int64 class maps, raising a ValueError unless they are [B, 1, *spatial] like ``logits``."""
    if labels.dim() != logits.dim() or labels.shape[1] != 1:
        raise ValueError(f"{name} must be class maps of shape [B, 1, *spatial] for {logits.shape}, got {labels.shape}")
    if labels.shape[0] != logits.shape[0] or labels.shape[2:] != logits.shape[2:]:
        raise ValueError(f"{name} must be class maps of shape [B, 1, *spatial] for {logits.shape}, got {labels.shape}")
    return plain(labels).long()


def checked_mask(mask: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor | None:
    """Return ``mask``, raising a ValueError unless it is None or a bool tensor [B, 1, *spatial] for ``logits``."""
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be a bool tensor, True where a voxel counts, got {mask.dtype}")
    one_channel(mask, logits, "mask")
    return plain(mask)


def entropy_map(p: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """Entropy in nats [B, 1, *spatial] of probabilities [B, C, *spatial] and their logarithms, without a gradient."""
    return (p.detach() * log_p.detach()).sum(1, keepdim=True).neg_()


def reduce_voxels(loss: torch.Tensor, mask: torch.Tensor | None, reduction: str) -> torch.Tensor:
    """Reduce a loss map [B, 1, *spatial] over the voxels of ``mask``.

    ``"mean"`` divides by the number of voxels kept, so it does not depend on how many were left out; with none kept it
    is a zero that backpropagates. ``"none"`` returns the map, zero where a voxel is left out.
    """
    if mask is not None:
        loss = torch.where(mask, loss, 0.0)
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    if mask is None:
        return total / max(loss.numel(), 1)
    return total / mask.sum().clamp(min=1)
