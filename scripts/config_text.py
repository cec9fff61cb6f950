# SPDX-License-Identifier: Apache-2.0
"""Text of a user that must not become code: MONAI evaluates what a config's text starts with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["CONFIG_MARKS", "find_config_text", "is_text"]

CONFIG_MARKS = ("$", "@", "%")
"""A text of a MONAI config that starts with one of these is an expression, a reference or a macro."""


def find_config_text(value: Any) -> str | None:
    """The first text in ``value`` that a MONAI config would evaluate instead of taking it as it is (ours).

    Args:
        value: anything; mappings (keys too), lists and tuples are searched to any depth.

    Returns:
        The text, or None when there is none: ``value`` may then be written into a config.

    Example:
        >>> find_config_text({"labels": {"1": "liver"}}), find_config_text(["liver", "$print(1)"])
        (None, '$print(1)')
    """
    return next((text for text in _texts(value) if text.lstrip().startswith(CONFIG_MARKS)), None)


def is_text(value: Any) -> bool:
    """Whether every text in ``value`` can be written to a file: half characters, as JSON may hold them, cannot (ours).

    Example:
        >>> is_text(["Herz", "\u5fc3"]), is_text({"image": "a\ud800"})
        (True, False)
    """
    try:
        for text in _texts(value):
            text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
