# SPDX-License-Identifier: Apache-2.0
"""What a forward pass changes beside the weights, so that it can be undone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BufferSnapshot"]


class BufferSnapshot:
    """The buffers of modules (running statistics, prototypes) as they are now (ours).

    Args:
        modules: the modules; they may make further children later, as terms do that first have to see features.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._kept: list[tuple[nn.Module, dict[str, Tensor], set[str]]] = [
            (
                part,
                {name: buffer.clone() for name, buffer in part.named_buffers(recurse=False)},
                {name for name, _ in part.named_children()},
            )
            for module in modules
            for part in module.modules()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the values back, and remove children that were made since."""
        for part, buffers, children in self._kept:
            for name in [name for name, _ in part.named_children() if name not in children]:
                delattr(part, name)
            for name, value in buffers.items():
                part.get_buffer(name).copy_(value)
