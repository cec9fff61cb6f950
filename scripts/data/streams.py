# SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled batches side by side, the same ones again whenever an epoch is repeated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ThreadBuffer, ThreadDataLoader
from monai.data.utils import set_rnd
from torch.utils.data import DataLoader, DistributedSampler, Sampler

__all__ = ["ReadAheadLoader", "TwoStreams", "loader_workers"]

_MOST_WORKERS = 8
_SHARED_MEMORY = Path("/dev/shm")
_LEAST_SHARED_MEMORY = 2**30
"""Bytes; crops on their way from a worker lie there, and a container has 64 MiB unless told otherwise."""


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
        self.done = 0

    def set_epoch(self, epoch: int, done: int = 0) -> None:
        """Choose the epoch (from 1) that the next iteration draws.

        Args:
            epoch: number of the epoch.
            done: steps of it that a run has behind it: their batches are drawn as before, and dropped.
        """
        self.epoch = epoch
        self.done = done

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
            for step in range(self.epoch_length):
                batches = {name: next(streams[name]) if name in streams else None for name in self.loaders}
                if step >= self.done:
                    yield batches
        finally:
            for stream in streams.values():
                stream.close()


def loader_workers(device: str | torch.device) -> int:
    """Processes for each of the two loaders: up to 8 with a GPU, none where cores or shared memory are short (ours).

    Args:
        device: on which the networks train.
    """
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.device(device).type != "cuda" or cores <= 2:
        return 0
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free < _LEAST_SHARED_MEMORY:
        return 0
    return min(_MOST_WORKERS, (cores - 1) // 2)


class ReadAheadLoader(ThreadDataLoader):
    """Reads and transforms the next scan in a thread while this one is segmented (ours).

    As MONAI's, but an error in the thread is raised where its scan is waited for.
    """

    def __iter__(self) -> Iterator[Any]:
        yield from _ThreadBuffer(DataLoader.__iter__(self), self.buffer_size, self.buffer_timeout)


def _cycle(loader: DataLoader) -> Generator[Any, None, None]:
    source = _endless(loader) if loader.num_workers else loader
    while True:
        if isinstance(loader, ThreadDataLoader):
            yield from _ThreadBuffer(DataLoader.__iter__(source), loader.buffer_size, loader.buffer_timeout)
        else:
            yield from source


def _endless(loader: DataLoader) -> DataLoader:
    """The same batches without an end: few scans are soon through, and processes need not be started anew for that."""
    return DataLoader(
        loader.dataset,
        batch_sampler=_Repeated(loader.batch_sampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        pin_memory=loader.pin_memory,
        prefetch_factor=loader.prefetch_factor,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
    )


class _Repeated(Sampler):
    def __init__(self, batches: Sampler) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield from self.batches


class _ThreadBuffer(ThreadBuffer):
    """MONAI's, which takes an error in its thread for the end of the data: a scan that is gone would be left out."""

    error: Exception | None = None

    def enqueue_values(self) -> None:
        try:
            super().enqueue_values()
        except Exception as error:  # raised again where the training waits for the batch
            self.error = error

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        if self.error is not None:
            raise self.error


def _seed_loader(loader: DataLoader, seed: int, epoch: int) -> None:
    # A generator of its own, also for the sampler: the global one is in use by the networks while a thread loads ahead.
    generator = torch.Generator().manual_seed(seed)
    loader.generator = generator
    if isinstance(loader.sampler, DistributedSampler):
        loader.sampler.set_epoch(epoch)
    elif hasattr(loader.sampler, "generator"):
        loader.sampler.generator = generator
    set_rnd(loader.dataset, seed)
