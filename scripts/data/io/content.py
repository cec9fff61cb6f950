# SPDX-License-Identifier: Apache-2.0
"""Names for results that follow from files and settings: another file or setting is another name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .formats.hdf5 import split_dataset

__all__ = ["content_key", "described", "digest_of_code"]


def content_key(files: Iterable[str], settings: Any) -> str:
    """A digest of the paths, sizes and times of change of files, and of all that decides what is made of them (ours).

    The files are not read. The code that makes it counts as a setting.

    Args:
        files: each a file or a folder with a DICOM series; ``FILE::NAME`` names a part of a file.
        settings: as :func:`described` takes it.

    Raises:
        OSError: when a file is not there.
    """
    content = [[(file, *_state(split_dataset(file)[0])) for file in files], described(settings), _code()]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def described(value: Any) -> Any:
    """Settings as plain JSON values, the same in every process: objects by class and attributes, functions by name."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return sorted([str(key), described(one)] for key, one in value.items())
    if isinstance(value, list | tuple):
        return [described(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, partial):
        return [described(value.func), described(value.args), described(value.keywords)]
    kind = value if hasattr(value, "__qualname__") else type(value)
    return [
        f"{kind.__module__}.{kind.__qualname__}",
        described(getattr(value, "__dict__", None) if kind is not value else None),
    ]


def digest_of_code(folder: Path) -> str:
    """sha256 of all Python files below a folder, with their places in it (ours)."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _state(path: str) -> tuple[Any, ...]:
    found = os.stat(path)
    if not os.path.isdir(path):
        return (found.st_size, found.st_mtime_ns)
    return tuple((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in _entries(path))


def _entries(path: str) -> Iterator[os.DirEntry]:
    with os.scandir(path) as entries:
        yield from sorted(entries, key=lambda entry: entry.name)


@cache
def _code() -> list[str]:
    """Of this part of the package, and the versions of what it stands on."""
    return [
        digest_of_code(Path(__file__).parents[1]),
        *(version(name) for name in ("monai", "torch", "numpy", "nibabel")),
    ]
