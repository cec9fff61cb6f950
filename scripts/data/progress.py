# SPDX-License-Identifier: Apache-2.0
"""A progress bar that one process of a job shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def is_main_process() -> bool:
    """Whether this is rank 0 of a distributed job, or not part of one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


def track(items: Iterable[T], total: int, description: str, show: bool = True) -> Iterator[T]:
    """Yield ``items`` behind a progress bar on stderr, shown by rank 0 only.

    Args:
        items: what to iterate over.
        total: how many there are.
        description: what is being done, for the reader.
        show: False for no bar at all.
    """
    if not (show and is_main_process()):
        yield from items
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)
