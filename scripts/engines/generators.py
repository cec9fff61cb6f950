# SPDX-License-Identifier: Apache-2.0
"""The state of the global random generators, as a checkpoint may hold it: tensors, lists and numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["read_generators", "set_generators"]


def read_generators(device: torch.device) -> dict[str, Any]:
    """States of the generators of PyTorch (on the CPU and on ``device``), NumPy and Python (ours)."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [str(kind), keys.tolist(), *rest],
        "python": random.getstate(),
    }


def set_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators back to what :func:`read_generators` gave."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(states["python"])
