# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import torch
from ignite.engine import Engine, Events

__all__ = ["StartWeights"]

logger = logging.getLogger(__name__)


class StartWeights:
    """Starts a training from the weights of an earlier one, if it trained the same networks (ours).

    MONAI's CheckpointLoader either fails on other networks or loads the part that fits; this one loads all or nothing
    and says which.

    Args:
        path: a flat state dict.
        network: network to train, possibly inside DistributedDataParallel.
    """

    def __init__(self, path: str, network: torch.nn.Module) -> None:
        self.path = path
        self.network = getattr(network, "module", network)

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, before the handler that resumes an interrupted run."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights."""
        weights = torch.load(self.path, map_location=engine.state.device, weights_only=True)
        own = self.network.state_dict()
        fits = {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in own.items()}
        if fits:
            self.network.load_state_dict(weights)
            logger.info("Training starts from %s", self.path)
        else:
            logger.warning("%s is of other networks: training starts from random weights", self.path)
