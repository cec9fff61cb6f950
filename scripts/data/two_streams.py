# SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled batches side by side, the same ones again whenever an epoch is repeated."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from monai.data.utils import set_rnd
from torch.utils.data import DataLoader, DistributedSampler

__all__ = ["TwoStreams"]


class TwoStreams:
    """Iterable over the steps of an epoch: ``{"labeled": batch, "unlabeled": batch or None}`` (ours).

    Each loader starts over when it is exhausted. Every epoch starts both loaders anew with all their random state
    (shuffling, random transforms, worker seeds) set from (seed, epoch, rank): an epoch does not depend on the ones
    before, which is what lets an interrupted run continue with the batches of the uninterrupted one.

    Args:
        labeled: loader of the labelled stream.
        unlabeled: loader of the unlabelled stream, or None for a supervised run.
        epoch_length: steps per epoch; default: as many as the longer loader has batches.
        seed: seed of the run.
        rank: index of this process among those that train together.

    Raises:
        ValueError: when a loader has no batches.
    """

    def __init__(
        self,
        labeled: DataLoader,
        unlabeled: DataLoader | None = None,
        epoch_length: int | None = None,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.loaders = {"labeled": labeled, "unlabeled": unlabeled}
        for name, loader in self.loaders.items():
            if loader is not None and len(loader) == 0:
                raise ValueError(
                    f"The {name} loader has no batches: {len(loader.dataset)} scans at batch_size={loader.batch_size}, "
                    f"drop_last={loader.drop_last}. Add scans, use a smaller batch or drop_last=False."
                )
        self.epoch_length = epoch_length or max(len(loader) for loader in self.loaders.values() if loader is not None)
        self.seed = seed
        self.rank = rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 1) that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.epoch_length

    # A generator: its body starts with the first step, when the threads of the epoch before have ended. Seeding
    # earlier would touch transforms that those threads may still be running.
    def __iter__(self) -> Generator[dict[str, Any], None, None]:
        seeds = np.random.SeedSequence([self.seed, self.epoch, self.rank]).generate_state(len(self.loaders))
        streams: dict[str, Iterator] = {}
        try:
            for (name, loader), seed in zip(self.loaders.items(), seeds, strict=True):
                if loader is not None:
                    _seed_loader(loader, int(seed), self.epoch)
                    streams[name] = _cycle(loader)
            for _ in range(self.epoch_length):
                yield {name: next(streams[name]) if name in streams else None for name in self.loaders}
        finally:
            for stream in streams.values():
                stream.close()


def _cycle(loader: DataLoader) -> Generator[Any, None, None]:
    while True:
        yield from loader


def _seed_loader(loader: DataLoader, seed: int, epoch: int) -> None:
    # A generator of its own, also for the sampler: the global one is in use by the networks while a thread loads ahead.
    generator = torch.Generator().manual_seed(seed)
    loader.generator = generator
    if isinstance(loader.sampler, DistributedSampler):
        loader.sampler.set_epoch(epoch)
    elif hasattr(loader.sampler, "generator"):
        loader.sampler.generator = generator
    set_rnd(loader.dataset, seed)
