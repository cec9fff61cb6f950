# SPDX-License-Identifier: Apache-2.0
"""What handlers know of an epoch, for checkpoints."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine

__all__ = ["memories", "remember"]


def memories(engine: Engine) -> dict[str, Any]:
    """The objects that handlers have registered with :func:`remember`, by name."""
    if not hasattr(engine.state, "memories"):
        engine.state.memories = {}
    return engine.state.memories


def remember(engine: Engine, name: str, item: Any) -> None:
    """Have checkpoints of this engine's run keep what a handler knows of each process's epoch (ours).

    Args:
        engine: the trainer.
        name: of the handler.
        item: has ``state_dict`` and ``load_state_dict``; the latter is called before the first step of a resumed run,
            within an epoch after ``EPOCH_STARTED``.
    """
    memories(engine)[name] = item
