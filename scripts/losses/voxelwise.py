# SPDX-License-Identifier: Apache-2.0
"""What every voxel-wise loss shares: checked shapes, full precision, reduction over the voxels that count.

Autocast lowers the precision of matrix products and convolutions only, so a loss made of element-wise operations on
tensors that went through :func:`full_precision` gives the same numbers with and without it (a test says so). The losses
that do multiply matrices switch autocast off around them.
"""

# Annotations are not postponed here: TorchScript cannot resolve those of a NamedTuple from another file.
from typing import NamedTuple

import torch

__all__ = [
    "check_classes",
    "check_logits",
    "check_matching",
    "checked_mask",
    "entropy_map",
    "full_precision",
    "one_channel",
    "plain",
    "predict",
    "Prediction",
    "reduce_voxels",
    "required_mask",
]


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` without what a subclass adds: a MetaTensor drags its metadata through every operation."""
    if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript leaves out what stands below, and cannot compile it
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return tensor.as_subclass(torch.Tensor)
    return tensor


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` as a plain tensor of at least float32; float64 stays float64."""
    tensor = plain(tensor)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_classes(num_classes: int) -> None:
    """Raise a ValueError unless there are at least two classes."""
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2 (background is a class), got {num_classes}")


def check_logits(logits: torch.Tensor, name: str, num_classes: int | None = None) -> None:
    """Raise a ValueError unless ``logits`` are floating point numbers [B, C, *spatial], C >= 2 or as given."""
    if not torch.is_floating_point(logits):
        raise ValueError(f"{name} must be floating point logits, got {logits.dtype}")
    if logits.dim() < 3 or logits.shape[1] < 2:
        raise ValueError(
            f"{name} must be logits of shape [B, C, *spatial] with C >= 2 (background is a class), got {logits.shape}"
        )
    if num_classes is not None and logits.shape[1] != num_classes:
        raise ValueError(f"{name} must have num_classes={num_classes} channels, got {logits.shape}")


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


def required_mask(mask: torch.Tensor, logits: torch.Tensor, name: str) -> torch.Tensor:
    """Return ``mask``, raising a ValueError unless it is a bool tensor [B, 1, *spatial] for ``logits``."""
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be a bool tensor, True where a voxel counts, got {mask.dtype}")
    one_channel(mask, logits, name)
    return plain(mask)


def checked_mask(mask: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor | None:
    """Return ``mask``, raising a ValueError unless it is None or a bool tensor [B, 1, *spatial] for ``logits``."""
    if mask is None:
        return None
    return required_mask(mask, logits, "mask")


def entropy_map(p: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """Entropy in nats [B, 1, *spatial] of probabilities [B, C, *spatial] and their logarithms, without a gradient."""
    return (p.detach() * log_p.detach()).sum(1, keepdim=True).neg_()


class Prediction(NamedTuple):
    """What a network says of every voxel, computed once for all terms that read it. See :func:`predict`.

    Attributes:
        log_p: log-probabilities [B, C, *spatial].
        p: probabilities [B, C, *spatial].
        entropy: in nats [B, 1, *spatial], without a gradient.
    """

    log_p: torch.Tensor
    p: torch.Tensor
    entropy: torch.Tensor


def predict(logits: torch.Tensor) -> Prediction:
    """Return the :class:`Prediction` of logits [B, C, *spatial], in float32 at least, with the gradient they have."""
    log_p = full_precision(logits).log_softmax(1)
    p = log_p.exp()
    return Prediction(log_p, p, entropy_map(p, log_p))


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
