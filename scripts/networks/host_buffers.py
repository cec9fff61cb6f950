# SPDX-License-Identifier: Apache-2.0
"""Buffers that stay on the host when the rest of a module moves to a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

__all__ = ["HostBuffers"]


class HostBuffers(nn.Module):
    """A module some of whose buffers, numbers that the host reads in every step, stay where they are (ours).

    Read from a GPU, such a number would wait for all that the GPU still has to compute. In checkpoints they are like
    other buffers. To be named before other bases.
    """

    on_host: ClassVar[tuple[str, ...]] = ()
    """Their names; of the module itself, not of those inside it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HostBuffers:
        kept = {name: self._buffers[name] for name in self.on_host}
        super()._apply(fn, recurse)
        self._buffers.update(kept)
        return self
