# SPDX-License-Identifier: Apache-2.0
"""Fire turns words that look like numbers or lists into such: a folder named 2019 becomes a number."""

from __future__ import annotations

from typing import Any

__all__ = ["text", "words"]


def text(word: Any) -> str | None:
    """The word as it was typed; None where there was none."""
    return None if word is None else str(word)


def words(given: Any) -> list[str]:
    """The words between commas, of which Fire makes a tuple where it can; none where there was nothing."""
    if given is None:
        return []
    return [str(one).strip() for one in (given if isinstance(given, (list, tuple)) else str(given).split(","))]
