# SPDX-License-Identifier: Apache-2.0
"""What a run took, and on what it ran."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import torch

__all__ = ["available_memory", "device_name", "peak_memory_gib"]


# What a container may hold and holds now; the first is the word "max" where there is no limit.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory() -> int:
    """Bytes that this process can still take without swapping, of the machine and of a container that it is in.

    What a container's limit counts includes files that the system keeps at hand, so this is rather too little.
    """
    free = psutil.virtual_memory().available
    for limit, usage in _LIMITS:
        try:
            free = min(free, max(0, int(Path(limit).read_text()) - int(Path(usage).read_text())))
        except (OSError, ValueError):  # no such limit
            continue
    return free


def device_name() -> str:
    """The GPU, or the CPU with the number of threads."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def peak_memory_gib() -> float:
    """Most memory this process held, in GiB: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows, where there is no module resource
        return memory.peak_wset / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB elsewhere
