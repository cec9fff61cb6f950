# SPDX-License-Identifier: Apache-2.0
"""The ensemble in operators that every exporter has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..networks import DualEnsemble

__all__ = ["MeanOfSubnets"]


class MeanOfSubnets(nn.Module):
    """
    The mean of all subnets' probabilities, as a logarithm: what ``DualEnsemble`` and ``RunsEnsemble`` compute (ours).

    ONNX has no ``logaddexp``; a ``logsumexp`` over the stacked subnets is the same number. It shares the weights of
    what it is made from.

    Args:
        networks: ensembles, of one run or of several.

    Attributes:
        size_multiple: what the length of every axis has to be a multiple of.
    """

    def __init__(self, networks: Sequence[DualEnsemble]) -> None:
        super().__init__()
        self.subnets = nn.ModuleList(subnet for network in networks for subnet in (network.a, network.b))
        self.log_count = math.log(len(self.subnets))
        own = [getattr(subnet, "size_multiple", 1) for subnet in self.subnets]
        self.size_multiple = math.lcm(*(n for one in own for n in ([one] if isinstance(one, int) else one)))

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: images [B, C_in, *S], each axis of S a multiple of ``size_multiple``.

        Returns:
            Logarithm of the mean of all softmaxes [B, C, *S], float32.
        """
        logs = [torch.log_softmax(subnet(x), dim=1, dtype=torch.float32) for subnet in self.subnets]
        return torch.logsumexp(torch.stack(logs), dim=0) - self.log_count
