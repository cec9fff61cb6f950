# SPDX-License-Identifier: Apache-2.0
"""After an epoch every rank has the batch statistics of rank 0, already when validation starts."""

import torch
import torch.multiprocessing as mp
from ignite.engine import Engine, Events

from scripts.engines import ShareBuffers


def train_as_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    network = torch.nn.BatchNorm1d(3)
    seen = []

    @torch.no_grad()
    def step(engine, batch):
        network(torch.full((4, 3), float(rank + engine.state.iteration)) + torch.arange(4.0)[:, None])

    engine = Engine(step)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(network.running_mean.clone()))
    ShareBuffers(network).attach(engine)  # after the handler that looks
    engine.run([0, 0, 0], max_epochs=2)
    torch.save(seen, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_agree_at_the_end_of_every_epoch(tmp_path):
    mp.start_processes(train_as_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    alone = torch.nn.BatchNorm1d(3)
    for iteration in range(1, 4):
        alone(torch.full((4, 3), float(iteration)) + torch.arange(4.0)[:, None])
    assert torch.equal(one[0], alone.running_mean)  # rank 0 keeps its own
    assert len(one) == 2 and all(map(torch.equal, one, other))


def test_one_process_needs_nothing():
    engine = Engine(lambda engine, batch: None)
    ShareBuffers(torch.nn.BatchNorm1d(3)).attach(engine)
    engine.run([0])  # a broadcast without a process group would raise
