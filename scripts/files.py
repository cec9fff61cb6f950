# SPDX-License-Identifier: Apache-2.0
"""Files that are either complete or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from .errors import DataError

__all__ = ["is_part", "remove_parts", "replace_file", "save_text"]

PART = ".part-"
PARTS = f".????????{PART}*"


@contextmanager
def replace_file(path: str | os.PathLike, keep: str | os.PathLike | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on leaving without an error it takes the place of `path`.

    An error inside the block removes the temporary file and leaves an older `path` as it was. The content is on the
    disk before it gets its name, so that a power cut leaves no file of zeros. Source: ours.

    Args:
        path: the file to create or replace; missing folders are made.
        keep: where an older `path` goes instead of being replaced; for a moment there is then no `path`.

    Raises:
        DataError: when the file cannot be written, e.g. on a full disk.

    Example:
        >>> with replace_file("run/metrics.json") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    # The suffix stays last: writers such as matplotlib choose the format by it.
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}{PART}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from error


def save_text(text: str, path: Path) -> None:
    """Write a text in UTF-8 by :func:`replace_file`."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_part(path: Path) -> bool:
    """Whether a file is what :func:`replace_file` writes to before it has its name."""
    return fnmatch(path.name, PARTS)


def remove_parts(folder: Path, older_than: float = 0.0) -> None:
    """Remove what :func:`replace_file` left anywhere below a folder when its process was killed.

    Args:
        folder: nobody else may be writing there, or
        older_than: seconds for which nobody has been writing to a file that is removed.
    """
    for path in folder.rglob(PARTS):
        with suppress(FileNotFoundError):
            if older_than <= 0 or time.time() - path.stat().st_mtime > older_than:
                path.unlink()


def _flush(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _not_written(path: Path, cause: str) -> DataError:
    return DataError(f"{path}: cannot be written ({cause}). Make room, or name a folder of yours.")
