# SPDX-License-Identifier: Apache-2.0
"""Where the scans of a stream are kept between crops: in memory, on disk, or nowhere."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from monai.transforms import Compose

from ...errors import DataError
from ...hardware import available_memory
from ...ranks import is_main_process
from ..datalist.read import image_files
from ..io.volumes import open_volume
from .disk import DiskCacheDataset
from .named_dataset import NamedCacheDataset

__all__ = ["cached_dataset", "cached_gigabytes"]

Cache = Literal["auto", "memory", "disk", "none"]

_SAMPLED = 8
"""Scans whose headers are read to know how large all are."""

_SHARE = 0.5
"""Of the free memory that scans may take: networks, activations and predictions need the rest."""

_BYTES = 4
"""Of a voxel, and of its label as much."""

logger = logging.getLogger(__name__)


def cached_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    cache: Cache = "auto",
    cache_dir: str | os.PathLike = "cache",
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    patch_size: Sequence[int] = (),
    cache_rate: float = 1.0,
    num_workers: int | None = None,
    on_disk: bool = True,
    hash_as_key: bool = False,
    name: str = "scans",
) -> NamedCacheDataset | DiskCacheDataset:
    """The dataset of a stream, with its scans on the working grid in memory, on disk or read anew for each crop.

    ``auto`` keeps them in memory where they take at most half of what is free, shared among the processes of this
    machine; else on disk where there is room, else nowhere. What it chose is logged in one line. The crops are the
    same, bit for bit.

    Args:
        data: items of a datalist.
        transform: all transforms; what comes before the first random one is kept.
        cache: ``auto``, ``memory``, ``disk`` or ``none``.
        cache_dir: folder of the cache on disk.
        spacing: voxel size of the working grid in mm.
        patch_size: of a crop; smaller scans are padded to it.
        cache_rate: share of the scans that are kept, when they are in memory.
        num_workers: threads that fill the memory.
        on_disk: whether the disk is a choice. It is none for items with metadata, which validation needs to go back to
            the scan's own grid: where memory does not do, they are read anew.
        hash_as_key: whether items that are listed several times are kept in memory once; on disk they always are.
        name: of the stream, for the log.

    Raises:
        DataError: when ``cache`` is another word.

    Source: ours.
    """
    if cache not in get_args(Cache):
        raise DataError(f"cache: {cache!r} is none of {', '.join(get_args(Cache))}.")
    if cache == "auto":
        folder = Path(cache_dir) if on_disk else None
        cache, why = _choose(cached_gigabytes(data, spacing, patch_size) * cache_rate, folder)
        if data and is_main_process():
            logger.info("Cache of %d %s: %s. %s.", len(data), name, cache, why)
    if cache == "disk" and on_disk:
        return DiskCacheDataset(data, transform, cache_dir)
    rate = cache_rate if cache == "memory" else 0.0
    # The first random transform makes copies: to copy the whole scan for it, as is MONAI's default, is to no purpose.
    return NamedCacheDataset(
        data, transform, cache_rate=rate, num_workers=num_workers, copy_cache=False, hash_as_key=hash_as_key
    )


def cached_gigabytes(
    data: Sequence[Mapping[str, Any]], spacing: Sequence[float], patch_size: Sequence[int] = ()
) -> float:
    """What scans and labels take on the working grid, from the headers of some of them.

    Args:
        data: items of a datalist.
        spacing: voxel size of the working grid in mm.
        patch_size: the least that a scan has.
    """
    sizes = []
    for number in np.unique(np.linspace(0, len(data) - 1, _SAMPLED).round().astype(int)) if data else []:
        files = image_files(data[number])
        try:
            with open_volume(files[0]) as volume:
                channels = volume.channels * len(files) + ("label" in data[number])
                voxels = np.prod(volume.shape) * np.prod(volume.spacing) / np.prod(spacing)
        except DataError:  # which the check names
            continue
        sizes.append(_BYTES * channels * max(voxels, np.prod(patch_size)))
    return float(np.mean(sizes)) * len(data) / 1e9 if sizes else 0.0


def _choose(needed: float, folder: Path | None) -> tuple[Cache, str]:
    """Which cache, and why in words.

    Args:
        needed: gigabytes of all scans.
        folder: of the cache on disk; None: that is no choice.
    """
    free = available_memory() / 1e9 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    takes = f"They take {needed:.1f} GB, and each process has {free:.1f} GB of memory"
    if needed <= _SHARE * free:
        return "memory", takes
    if folder is None:
        return "none", f"{takes}: each is read when its turn comes"
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    room = shutil.disk_usage(nearest).free / 1e9
    if needed <= 0.9 * room:
        return "disk", f"{takes}; {folder} has room for {room:.0f} GB"
    return "none", f"{takes}, {folder} room for {room:.0f} GB: each crop reads its whole scan. Name a larger cache_dir"
