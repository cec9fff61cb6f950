# SPDX-License-Identifier: Apache-2.0
"""A handler for the test of several processes: what each of them holds after every epoch."""

from pathlib import Path

import torch
from ignite.engine import Engine, Events


class DumpRanks:
    """Writes parameters and buffers of the networks, the state of the method and the last loss of this process.

    At the end of an epoch, so before the run loads the best weights on every rank, which would hide a difference.
    """

    def __init__(self, folder, network, method):
        self.folder = Path(folder)
        self.network = network
        self.method = method

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.dump)

    def dump(self, engine: Engine) -> None:
        state = {
            "parameters": dict(self.network.named_parameters()),
            "buffers": dict(self.network.named_buffers()),
            "method": self.method.state_dict(),
        }
        rank = torch.distributed.get_rank()
        torch.save(state | {"loss": engine.state.output["loss"].item()}, self.folder / f"rank{rank}.pt")
