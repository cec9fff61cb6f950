# SPDX-License-Identifier: Apache-2.0
"""One process at a time writes to a run: the operating system forgets the lock of a process that has died."""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DataError
from ..files import remove_parts

__all__ = ["lock_folder", "tidy_folder", "unlock_folder"]

logger = logging.getLogger(__name__)

LOCK, OWNER = ".lock", ".owner"
_held: dict[Path, FileLock] = {}


def lock_folder(folder: Path, wait: float = 10.0) -> None:
    """Keep other processes from a folder until this one ends or calls :func:`unlock_folder` (ours).

    Args:
        folder: the folder; a hidden file in it is the lock, another says whose it is.
        wait: seconds to wait for a process that is just ending, such as one that loads data for a run that was killed.

    Raises:
        DataError: when another process has it; the message names process and host.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        owner = folder / OWNER
        whose = owner.read_text(encoding="utf-8") if owner.is_file() else "another process"
        raise DataError(
            f"{folder}: in use by {whose}. Wait for it to end, or give --resume off to train a second run beside it."
        ) from error
    except NotImplementedError:
        logger.warning("%s: this file system knows no locks; start no second process for this run.", folder)
        return
    _held[folder] = lock
    (folder / OWNER).write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")


def unlock_folder(folder: Path) -> None:
    """Let others have the folder, and leave no trace of the lock."""
    folder = folder.resolve()
    lock = _held.pop(folder, None)
    if lock is not None:
        for name in (OWNER, LOCK):
            (folder / name).unlink(missing_ok=True)
        lock.release()


def tidy_folder(folder: Path) -> None:
    """Remove what a process has left that was killed in the moment after its run had ended (ours)."""
    if (folder / LOCK).exists():
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, NotImplementedError):
            return
        for name in (OWNER, LOCK):
            (folder / name).unlink(missing_ok=True)
        lock.release()
    remove_parts(folder, older_than=5.0)  # the report is written when others may have the folder
