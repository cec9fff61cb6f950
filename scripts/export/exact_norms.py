# SPDX-License-Identifier: Apache-2.0
"""Normalisation whose means are exact in every runtime."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["ExactNorm", "with_exact_norms"]


class ExactNorm(nn.Module):
    """
    Group or instance normalisation from means that are taken axis after axis (ours).

    Both become ONNX's InstanceNormalization, of which onnxruntime 1.32 takes mean and variance as one float32 sum over
    all voxels: after the layers of a network the logarithms of its probabilities are off by 8e-4. Sums over one axis at
    a time are short, and leave 1e-5.

    Args:
        norm: the layer, ``GroupNorm`` or one of ``InstanceNorm`` without running statistics; its weights are shared.
    """

    def __init__(self, norm: nn.GroupNorm | _InstanceNorm) -> None:
        super().__init__()
        grouped = isinstance(norm, nn.GroupNorm)
        self.channels = norm.num_channels if grouped else norm.num_features
        self.groups = norm.num_groups if grouped else self.channels
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: features [B, C, *S].

        Returns:
            Features of the same shape, of mean 0 and variance 1 in each group, times the weight and plus the bias.
        """
        grouped = x.reshape(x.shape[0], self.groups, self.channels // self.groups, *x.shape[2:])
        centred = grouped - _mean(grouped)
        normal = (centred / torch.sqrt(_mean(centred * centred) + self.eps)).reshape(x.shape)
        if self.weight is None:
            return normal
        shape = [1, -1] + [1] * (x.dim() - 2)
        return normal * self.weight.reshape(shape) + self.bias.reshape(shape)


def _mean(grouped: Tensor) -> Tensor:
    """Of each group, over all axes but the first two."""
    for axis in range(grouped.dim() - 1, 1, -1):
        grouped = grouped.mean(axis, keepdim=True)
    return grouped


def with_exact_norms(network: nn.Module) -> nn.Module:
    """A copy of a network with :class:`ExactNorm` in the place of its group and instance normalisations (ours)."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm) or (isinstance(child, _InstanceNorm) and not child.track_running_stats):
                setattr(module, name, ExactNorm(child))
    return network
