# SPDX-License-Identifier: Apache-2.0
"""Two subnets as one network: to train them, and to predict with their mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class SubnetOutput(NamedTuple):
    """Logits [B, C, *S] and features [B, E, *S'] of one subnet."""

    logits: Tensor
    features: Tensor


class DualOutput(NamedTuple):
    """What both subnets make of the same images."""

    a: SubnetOutput
    b: SubnetOutput


class DualNetwork(nn.Module):
    """
    Two subnets that see the same images: the network that is trained.

    Lu et al., arXiv 2509.13084, with :class:`~scripts.networks.ResNetVNet` and :class:`~scripts.networks.VNet`.

    Example:
        >>> import torch
        >>> from scripts.networks import DualNetwork, ResNetVNet, VNet
        >>> network = DualNetwork(ResNetVNet(base_channels=8), VNet(base_channels=8))
        >>> output = network(torch.zeros(1, 1, 16, 32, 32))
        >>> output.a.logits.shape, output.b.features.shape
        (torch.Size([1, 2, 16, 32, 32]), torch.Size([1, 8, 16, 32, 32]))
    """

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        """
        Args:
            a: first subnet, with a method ``forward_features(x) -> (logits, features)``.
            b: second subnet, likewise. It must not share parameters with the first.

        Raises:
            ValueError: When a subnet has no ``forward_features``, or both are the same object.
        """
        super().__init__()
        for name, subnet in (("a", a), ("b", b)):
            if not hasattr(subnet, "forward_features"):
                raise ValueError(
                    f"Subnet {name}, a {type(subnet).__name__}, has no forward_features(x) -> (logits, features): "
                    "wrap it in WithFeatures and name the layer to tap."
                )
        if a is b:
            raise ValueError("Subnets a and b are the same object: they would not disagree. Make two.")
        self.a = a
        self.b = b

    def forward(self, x: Tensor) -> DualOutput:
        """
        Both subnets' logits and features.

        Args:
            x: images [B, C_in, *S].

        Returns:
            Named tuple ``(a, b)`` of named tuples ``(logits [B, C, *S], features [B, E, *S'])``.
        """
        a, b = (cast(Callable[[Tensor], tuple[Tensor, Tensor]], one.forward_features)(x) for one in (self.a, self.b))
        return DualOutput(SubnetOutput(*a), SubnetOutput(*b))


class DualEnsemble(nn.Module):
    """
    The mean of two subnets' probabilities: the network that predicts.

    It has :class:`DualNetwork`'s children and so loads its weights. Its output is a logarithm of probabilities, so that
    softmax gives the mean probability and argmax its class. It scripts and traces when the subnets do.

    Lu et al., arXiv 2509.13084 (inference: the average of both softmaxes).

    Example:
        >>> import torch
        >>> from scripts.networks import DualEnsemble, ResNetVNet, VNet
        >>> ensemble = DualEnsemble(ResNetVNet(base_channels=8), VNet(base_channels=8)).eval()
        >>> probabilities = ensemble(torch.zeros(1, 1, 16, 32, 32)).softmax(dim=1)
    """

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        """
        Args:
            a: first subnet, ``forward(x) -> logits``.
            b: second subnet, likewise, with the same number of classes.
        """
        super().__init__()
        self.a = a
        self.b = b

    def members(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Each subnet's logits and the ensemble's output.

        Args:
            x: images [B, C_in, *S].

        Returns:
            Logits of a, logits of b, logarithm of the mean of their softmaxes in float32; each [B, C, *S].
        """
        logits_a = self.a(x)
        logits_b = self.b(x)
        log_sum = torch.logaddexp(
            torch.log_softmax(logits_a, dim=1, dtype=torch.float32),
            torch.log_softmax(logits_b, dim=1, dtype=torch.float32),
        )
        return logits_a, logits_b, log_sum - math.log(2)

    def forward(self, x: Tensor) -> Tensor:
        """
        Logarithm of the mean of both softmaxes.

        Args:
            x: images [B, C_in, *S].

        Returns:
            log((softmax(a(x)) + softmax(b(x))) / 2) [B, C, *S], float32.
        """
        return self.members(x)[2]
