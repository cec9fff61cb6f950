# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: what a part of a network computes is thrown away and computed again for its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputed"]


def recomputed(function: Callable[..., Any], network: nn.Module, *inputs: Any) -> Any:
    """
    ``function(*inputs)``, of which only the inputs are kept for the backward pass (ours, on PyTorch's ``checkpoint``).

    Dropout draws the same again. Normalisation layers count a batch once in their running statistics.

    Args:
        function: a part of ``network``.
        network: the network whose running statistics are left alone the second time.
        inputs: of the function.

    Returns:
        What the function returns.
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _untouched_statistics(network)

    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _untouched_statistics(network: nn.Module) -> Iterator[None]:
    """Running statistics move by nothing: without any, the layers would not keep the tensors that they kept before."""
    tracking = [part for part in network.modules() if getattr(part, "num_batches_tracked", None) is not None]
    before: list[tuple[Any, Any, Any]] = [(part, part.momentum, part.num_batches_tracked) for part in tracking]
    try:
        for part in tracking:
            _set(part, 0.0, None)
        yield
    finally:
        for part, momentum, count in before:
            _set(part, momentum, count)


def _set(layer: Any, momentum: float | None, count: Tensor | None) -> None:
    layer.momentum, layer.num_batches_tracked = momentum, count
