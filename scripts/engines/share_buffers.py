# SPDX-License-Identifier: Apache-2.0
"""With several processes, one network to validate: batch statistics are those of rank 0, as in the checkpoint."""

from __future__ import annotations

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

from ..ranks import world_size

__all__ = ["ShareBuffers"]


class ShareBuffers:
    """Gives every rank the buffers of rank 0 after the last step of an epoch.

    DistributedDataParallel keeps parameters equal, but each rank updates the running statistics of batch normalisation
    from its own batches, and only the next training step makes them equal again. In between, validation and test
    would score a slightly different network on each rank. Works before anything that happens at the end of an epoch,
    wherever it stands among the handlers; without several processes it does nothing. Source: ours.

    Args:
        network: the network, inside DistributedDataParallel or not.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Register with a trainer whose epoch length is known."""
        if world_size() > 1:
            engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_is_last_of_epoch), self._share)

    @torch.no_grad()
    def _share(self, engine: Engine) -> None:
        for buffer in self.network.buffers():
            dist.broadcast(buffer, src=0)


def _is_last_of_epoch(engine: Engine, iteration: int) -> bool:
    return iteration % engine.state.epoch_length == 0
