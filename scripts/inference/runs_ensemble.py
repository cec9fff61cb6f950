# SPDX-License-Identifier: Apache-2.0
"""Several runs as one network: their probabilities, averaged."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .weights import load_weights

__all__ = ["RunsEnsemble", "ensemble_of_runs"]


class RunsEnsemble(nn.Module):
    """
    The mean of several networks' probabilities, such as of the same training with other seeds or folds (ours).

    Args:
        networks: of the same number of classes; logits [B, C, *S] or logarithms of probabilities.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: images [B, C_in, *S].

        Returns:
            Logarithm of the mean of all softmaxes [B, C, *S], float32.
        """
        logs = [torch.log_softmax(network(x), dim=1, dtype=torch.float32) for network in self.networks]
        return torch.logsumexp(torch.stack(logs), dim=0) - math.log(len(logs))

    def members(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        The mean of all first subnets, of all second subnets, and of everything, as logarithms of probabilities.

        Args:
            x: images [B, C_in, *S].

        Returns:
            As of :meth:`scripts.networks.DualEnsemble.members`; each [B, C, *S].
        """
        outputs = [network.members(x) for network in self.networks]
        a, b, both = (
            torch.logsumexp(torch.stack([o[part].float().log_softmax(1) for o in outputs]), 0) - math.log(len(outputs))
            for part in range(3)
        )
        return a, b, both


def ensemble_of_runs(network: nn.Module, further: Sequence[str]) -> nn.Module:
    """
    One network of a model and further weights for the same networks (ours).

    Args:
        network: of the first model; its weights are loaded elsewhere.
        further: files of weights, flat state dicts. None: ``network`` itself.

    Raises:
        DataError: when a file cannot be read, or is of other networks.
    """
    if not further:
        return network
    networks = [network]
    for path in further:
        other = copy.deepcopy(network)
        load_weights(other, path)
        networks.append(other)
    return RunsEnsemble(networks)
