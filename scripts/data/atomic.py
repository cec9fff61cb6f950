# SPDX-License-Identifier: Apache-2.0
"""Files that are either complete or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np

from .errors import DataError


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on leaving without an error it takes the place of `path`.

    An error inside the block removes the temporary file and leaves an older `path` as it was. Source: ours.

    Args:
        path: the file to create or replace; missing folders are made.

    Raises:
        DataError: when the file cannot be written, e.g. on a full disk.

    Example:
        >>> with replace_file("run/metrics.json") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    # The suffix stays last: writers such as matplotlib choose the format by it.
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from error
    except RuntimeError as error:
        if "inline_container" not in str(error):  # how torch.save says that not all was written
            raise
        raise _not_written(path, "is the disk full?") from error


def save_text(text: str, path: Path) -> None:
    """Write a text in UTF-8 by :func:`replace_file`."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_nifti(voxels: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write voxels ``[X, Y, Z(, C)]`` with their affine (voxel indices to RAS+ mm) by :func:`replace_file`."""
    with replace_file(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(voxels, np.asarray(affine, dtype=np.float64)), temporary)


def _not_written(path: Path, cause: str) -> DataError:
    return DataError(f"{path}: cannot be written ({cause}). Make room, or name a folder of yours.")
