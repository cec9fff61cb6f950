# SPDX-License-Identifier: Apache-2.0
"""Files that are written completely or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np

from .errors import DataError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a draft beside ``path`` to write to; without an error it takes the place of ``path`` (ours).

    Raises:
        DataError: when it cannot be written, e.g. on a full disk. No draft stays; an older file stays as it was.
    """
    # The suffix stays last: nibabel chooses the format by it.
    draft = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}). Name a folder of yours, or make room."
        ) from error


def save_text(text: str, path: Path) -> None:
    """Write a text in UTF-8 by :func:`whole_file`."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def save_nifti(voxels: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write voxels ``[X, Y, Z(, C)]`` with their affine (voxel indices to RAS+ mm) by :func:`whole_file`."""
    with whole_file(path) as draft:
        nibabel.save(nibabel.Nifti1Image(voxels, np.asarray(affine, dtype=np.float64)), draft)
