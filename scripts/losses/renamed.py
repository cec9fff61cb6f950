# SPDX-License-Identifier: Apache-2.0
"""Arguments that were renamed keep their old name for one version."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["renamed"]

T = TypeVar("T")


def renamed(**methods: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """
    Let methods of a class take the old names of their keyword arguments too, with a DeprecationWarning.

    For the arguments of ``forward`` of a module, wrap ``__call__``: TorchScript compiles ``forward`` from its source,
    and looks names up in the wrong file when a decorator is around it.

    Args:
        methods: for each method, {old name: new name}.

    Returns:
        A class decorator. A call that gives an argument by both names raises a TypeError.

    Example:
        >>> @renamed(__init__={"size": "length"})
        ... class Rope:
        ...     def __init__(self, length):
        ...         self.length = length
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     Rope(size=3).length
        3
    """

    def decorate(cls: type[T]) -> type[T]:
        for method, names in methods.items():
            setattr(cls, method, _with_old_names(getattr(cls, method), cls.__name__, names))
        return cls

    return decorate


def _with_old_names(function: Callable[..., Any], owner: str, names: Mapping[str, str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for old, new in names.items():
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{owner} got {new!r} and its old name {old!r}")
                warnings.warn(
                    f"{owner}: the argument {old!r} is now {new!r}; the old name goes with the next version",
                    DeprecationWarning,
                    stacklevel=2,
                )
                kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call
