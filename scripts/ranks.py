# SPDX-License-Identifier: Apache-2.0
"""Which process of a distributed job am I?"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

__all__ = [
    "gather_on_all",
    "gather_on_main",
    "is_main_process",
    "maximum_over_ranks",
    "rank",
    "tell_others",
    "world_size",
]


def rank() -> int:
    """Number of this process in its job, from 0; before the job has formed, that which its launcher gave it."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes work together; 1 until the job has formed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks for the others."""
    return rank() == 0


def maximum_over_ranks(value: int) -> int:
    """The largest of all processes' values, which all of them get; every process has to call it."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=_cpu_group(dist.group.WORLD))
    return int(shared)


def gather_on_main(value: Any) -> list[Any] | None:
    """All processes' values, by rank, for the main process; None for the others. Every process has to call it."""
    if world_size() == 1:
        return [value]
    gathered = [None] * world_size() if is_main_process() else None
    dist.gather_object(value, gathered, dst=0, group=_cpu_group(dist.group.WORLD))
    return gathered


def gather_on_all(value: Any) -> list[Any]:
    """All processes' values, by rank; every process has to call it."""
    if world_size() == 1:
        return [value]
    gathered = [None] * world_size()
    dist.all_gather_object(gathered, value, group=_cpu_group(dist.group.WORLD))
    return gathered


def tell_others(value: Any) -> Any:
    """The main process's value, which all of them get; every process has to call it."""
    if world_size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0, group=_cpu_group(dist.group.WORLD))
    return shared[0]


@cache
def _cpu_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """All processes, without a GPU: asking each other must not wait for the devices' work."""
    return world if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")
