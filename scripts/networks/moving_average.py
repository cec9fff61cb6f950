# SPDX-License-Identifier: Apache-2.0
"""A network whose weights follow those of the one that is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .host_buffers import HostBuffers

__all__ = ["MovingAverage"]


class MovingAverage(HostBuffers, AveragedModel):
    """
    Exponential moving average of a network's parameters and running statistics: a teacher, or the network to use.

    After update n (counted from 0) the average is ``decay_n * average + (1 - decay_n) * network`` with
    ``decay_n = min(1 - 1 / (n + 1), decay)``, so that it starts as the plain mean. Its parameters take no gradient.

    Tarvainen and Valpola, "Mean teachers are better role models", NIPS 2017; the warm-up is that of Yu et al., UA-MT,
    MICCAI 2019. Running statistics of batch normalisation are averaged as well, so that they fit the averaged weights.

    Example:
        >>> import torch
        >>> from scripts.networks import MovingAverage
        >>> network = torch.nn.Linear(1, 1)
        >>> average = MovingAverage(network, decay=0.99)
        >>> average.update_parameters(network)
        >>> bool((average.module.weight == network.weight).all())
        True
    """

    on_host = ("n_averaged",)

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        """
        Args:
            network: the network to follow; ``module`` is a copy of it.
            decay: weight of the past, in [0, 1).

        Raises:
            ValueError: When ``decay`` is not in [0, 1).
        """
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, got {decay}.")
        self.decay = decay
        super().__init__(network, use_buffers=True)
        self.module.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow the network by one update.

        PyTorch's own sends the count of updates to the device, which waits for all that is computed there.

        Args:
            model: the network, with the parameters and buffers of ``module``.

        Raises:
            ValueError: When it has another number of them; then nothing has changed.
        """
        weight = 1 - min(1 - 1 / (int(self.n_averaged) + 1), self.decay)
        groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        own, followed = ([*one.parameters(), *one.buffers()] for one in (self.module, model))
        for averaged, current in zip(own, followed, strict=True):
            group = groups.setdefault((averaged.device, averaged.dtype), ([], []))
            group[0].append(averaged)
            group[1].append(current.to(averaged.device))
        for (_, dtype), (averages, currents) in groups.items():
            if dtype.is_floating_point:
                torch._foreach_lerp_(averages, currents, weight)
            else:  # counters, such as the number of batches that a normalisation layer has seen
                torch._foreach_copy_(averages, currents)
        self.n_averaged += 1
