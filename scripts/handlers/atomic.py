# SPDX-License-Identifier: Apache-2.0
"""Files that are either complete or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on leaving without an error it takes the place of `path`.

    An error inside the block removes the temporary file and leaves an older `path` as it was. Source: ours.

    Args:
        path: the file to create or replace; missing folders are made.

    Example:
        >>> with replace_file("run/metrics.json") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
