# SPDX-License-Identifier: Apache-2.0
"""Layers of a method's own, between a network's features and a loss on them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, distributed, nn

__all__ = ["Heads", "shared_gradient"]


class Heads(nn.ModuleDict):
    """A projection for each network: a layer as wide as its features, a ReLU, a layer to fewer or more channels.

    They are trained with the networks, for the loss alone: what predicts does not have them. Chen et al., "A Simple
    Framework for Contrastive Learning", ICML 2020, arXiv 2002.05709.

    Args:
        feature_channels: width of both networks' features; ``base_channels`` for this bundle's networks.
        channels: width of the projection.
    """

    def __init__(self, feature_channels: int, channels: int) -> None:
        super().__init__({network: _projection(feature_channels, channels) for network in ("a", "b")})
        self.feature_channels = feature_channels
        shared_gradient(self)

    def project(self, network: str, features: Tensor) -> Tensor:
        """
        Args:
            network: ``"a"`` or ``"b"``.
            features: its features [N,E,*S'].

        Returns:
            The projection [N,channels,*S'].

        Raises:
            ValueError: when the features have another width.
        """
        if features.shape[1] != self.feature_channels:
            raise ValueError(
                f"Network {network} has features of {features.shape[1]} channels, and the method a head for "
                f"{self.feature_channels}: set feature_channels of the method's terms to {features.shape[1]}."
            )
        return self[network](features.movedim(1, -1)).movedim(-1, 1)


def shared_gradient(module: nn.Module) -> None:
    """Average the gradients of a module's parameters over the processes: no DistributedDataParallel does it for them.

    Every process must use them in every step, or none.
    """
    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(_average)


@torch.no_grad()
def _average(parameter: nn.Parameter) -> None:
    if distributed.is_available() and distributed.is_initialized():
        gradient = cast(Tensor, parameter.grad)  # it has just been accumulated
        distributed.all_reduce(gradient)
        gradient /= distributed.get_world_size()


def _projection(feature_channels: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(feature_channels, feature_channels), nn.ReLU(), nn.Linear(feature_channels, channels)
    )
