# SPDX-License-Identifier: Apache-2.0
"""A progress bar that one process of a job shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .ranks import is_main_process

T = TypeVar("T")


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
