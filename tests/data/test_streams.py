# SPDX-License-Identifier: Apache-2.0
"""Both streams cycle, and an epoch's batches depend on seed, epoch and rank alone."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.data import DataLoader, Dataset, ThreadDataLoader
from monai.transforms import RandGaussianNoised, RandShiftIntensityd

from scripts.data import ReadAheadLoader, TwoStreams, loader_workers
from scripts.data import streams as streams_module


class Noisy:
    """Two random transforms, so that a wrong seeding of nested transforms shows."""

    def __new__(cls):
        from monai.transforms import Compose

        return Compose([RandGaussianNoised("image", prob=0.7), RandShiftIntensityd("image", offsets=0.5, prob=0.7)])


def make(labeled=3, unlabeled=5, loader=ThreadDataLoader, workers=0, **kwargs):
    def stream(count, start, batch_size):
        items = [{"image": torch.full((1, 4, 4, 4), float(start + i))} for i in range(count)]
        return loader(Dataset(items, Noisy()), batch_size=batch_size, shuffle=True, num_workers=workers)

    return TwoStreams(stream(labeled, 0, 1), stream(unlabeled, 100, 2) if unlabeled else None, **kwargs)


def epoch_of(streams, epoch, steps=None):
    streams.set_epoch(epoch)
    batches = []
    for step, batch in enumerate(streams):
        batches.append(torch.cat([batch[name]["image"].flatten() for name in ("labeled", "unlabeled") if batch[name]]))
        if steps is not None and step + 1 == steps:
            break
    return torch.cat(batches)


def test_each_stream_starts_over_when_it_is_exhausted():
    streams = make(epoch_length=7)
    streams.set_epoch(1)
    seen = [round(batch["labeled"]["image"].mean().item()) for batch in streams]
    assert len(seen) == 7
    assert all(sorted(seen[i : i + 3]) == [0, 1, 2] for i in (0, 3))


def test_default_length_is_that_of_the_longer_loader():
    assert len(make(labeled=3, unlabeled=8)) == 4
    assert len(make(labeled=3, unlabeled=2)) == 3


def test_without_unlabelled_scans_there_is_no_second_batch():
    streams = make(unlabeled=0, epoch_length=2)
    assert [batch["unlabeled"] for batch in streams] == [None, None]


@pytest.mark.parametrize(("loader", "workers"), [(ThreadDataLoader, 0), (DataLoader, 0), (DataLoader, 1)])
def test_an_epoch_is_the_same_whatever_came_before(loader, workers):
    alone = epoch_of(make(loader=loader, workers=workers, epoch_length=4), 3)
    streams = make(loader=loader, workers=workers, epoch_length=4)
    torch.manual_seed(99)
    epoch_of(streams, 1)
    epoch_of(streams, 2, steps=2)  # left in the middle, while a thread may be loading ahead
    torch.rand(10)
    assert torch.equal(epoch_of(streams, 3), alone)


def test_epochs_seeds_and_ranks_differ():
    draws = [
        epoch_of(make(epoch_length=4), 1),
        epoch_of(make(epoch_length=4), 2),
        epoch_of(make(epoch_length=4, seed=1), 1),
        epoch_of(make(epoch_length=4, rank=1), 1),
    ]
    for i, first in enumerate(draws):
        assert not any(torch.equal(first, second) for second in draws[i + 1 :])


def test_an_empty_loader_is_refused_with_its_numbers():
    items = Dataset([{"image": torch.zeros(1, 2, 2, 2)}])
    loader = DataLoader(items, batch_size=4, drop_last=True)
    with pytest.raises(ValueError, match="labeled loader has no batches: 1 scans at batch_size=4"):
        TwoStreams(loader)


class Process:
    """Which process made an item."""

    def __call__(self, item):
        return {"pid": torch.tensor(os.getpid())}


def test_a_process_lasts_for_an_epoch_though_its_few_scans_are_soon_through():
    loader = DataLoader(Dataset([{}] * 3, Process()), batch_size=1, num_workers=1)
    streams = TwoStreams(loader, epoch_length=7)
    streams.set_epoch(1)
    pids = {int(batch["labeled"]["pid"]) for batch in streams}
    assert len(pids) == 1 and pids != {os.getpid()}


@pytest.mark.parametrize(
    ("device", "cores", "local", "shared", "expected"),
    [
        ("cuda", 16, "1", 2**34, 7),
        ("cuda", 64, "1", 2**34, 8),
        ("cuda", 16, "4", 2**34, 1),
        ("cuda", 2, "1", 2**34, 0),
        ("cuda", 16, "1", 2**26, 0),
        ("cpu", 16, "1", 2**34, 0),
    ],
)
def test_loaders_get_processes_where_there_are_a_gpu_cores_and_shared_memory(
    monkeypatch, device, cores, local, shared, expected
):
    monkeypatch.setattr(streams_module.os, "cpu_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setattr(streams_module, "_SHARED_MEMORY", Path(__file__).parent)
    monkeypatch.setattr(streams_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=shared))
    assert loader_workers(device) == expected


def test_reading_ahead_gives_the_same_scans_in_order_and_raises_where_one_is_bad():
    class Reading(Dataset):
        def __getitem__(self, index):
            if index == 3:
                raise FileNotFoundError("scan3.nii.gz")
            return torch.tensor([index])

    read = []
    with pytest.raises(FileNotFoundError, match="scan3"):
        for batch in ReadAheadLoader(Reading(list(range(5))), batch_size=1):
            read.append(int(batch))
    assert read == [0, 1, 2]
