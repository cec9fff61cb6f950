# SPDX-License-Identifier: Apache-2.0
"""Files of tensors: written whole, read only when every byte is as it was written."""

from __future__ import annotations

import errno
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor

from .errors import DataError
from .files import replace_file

__all__ = ["SAFETENSORS", "DamagedFileError", "find_non_finite", "load_tensors", "read_weights", "save_tensors"]

SAFETENSORS = ".safetensors"
# What readers of a zip archive and of the pickle in it raise when bytes have changed.
DAMAGE = (
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class DamagedFileError(DataError):
    """A file of tensors that is missing, or not as it was written."""


def save_tensors(content: Any, path: Path, keep: Path | None = None) -> None:
    """Write tensors, in mappings and lists, so that ``path`` is complete or as it was before (ours).

    The same content gives the same bytes. PyTorch's archive has a checksum of each tensor in it.

    Args:
        content: what to write.
        path: where.
        keep: where an older ``path`` goes; None: it is replaced.

    Raises:
        DataError: when it cannot be written, e.g. on a full disk.
    """
    # To an open file, since torch would write the name of a temporary path into the archive.
    with replace_file(path, keep) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_tensors(path: Path, device: str | torch.device = "cpu") -> Any:
    """Read what :func:`save_tensors` wrote, after comparing all of its checksums, which ``torch.load`` does not (ours).

    Files in the form that PyTorch wrote before 1.6, as older published weights are, have none.

    Args:
        path: the file.
        device: where the tensors are to be.

    Raises:
        DamagedFileError: when it is missing or differs from what was written; the message is a part of a sentence.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                part = archive.testzip()
            if part is not None:
                raise DamagedFileError(f"{path} is damaged (a checksum is wrong)")
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is missing") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # by torch.load's search for the end of an archive that has none
            raise DamagedFileError(f"{path} is damaged") from error
        raise DamagedFileError(f"{path} cannot be read ({error.strerror or error})") from error
    except DamagedFileError:
        raise
    except pickle.UnpicklingError as error:
        raise DamagedFileError(f"{path} is damaged, or holds other things than tensors") from error
    except DAMAGE as error:
        raise DamagedFileError(f"{path} is damaged") from error


def find_non_finite(content: Any) -> str | None:
    """Name of the first tensor in nested mappings and lists that is not finite; None if all are (ours)."""
    named = [(name, value) for name, value in _tensors(content, "") if value.is_floating_point()]
    if not named:
        return None
    finite = torch.stack([value.isfinite().all().cpu() for _, value in named]).tolist()
    return next((name for (name, _), sound in zip(named, finite, strict=True) if not sound), None)


def _tensors(content: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _tensors(value, f"{name}.{number}")


def read_weights(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """A state dict from a file (ours).

    Args:
        path: ``.safetensors``, or what ``torch.save`` has written: a state dict, or one under the key ``model``.
        device: where its tensors go.

    Raises:
        DataError: when the file cannot be read, or safetensors is not installed.
    """
    if not str(path).endswith(SAFETENSORS):
        try:
            weights = load_tensors(Path(path), device)
        except DamagedFileError as error:
            raise DataError(f"{error}. Copy it again, or name the model.pt of a run.") from error
    else:
        load_file, installed = optional_import("safetensors.torch", name="load_file")
        if not installed:
            raise DataError(f"{path}: reading it takes safetensors. Install it: pip install safetensors.")
        try:
            weights = load_file(path, device=str(device))
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}). Check its permissions.") from error
        except Exception as error:  # safetensors has one of its own, in a module that need not be there
            if type(error).__name__ != "SafetensorError":
                raise
            raise DataError(f"{path} is damaged ({error}). Copy or download it again.") from error
    if not isinstance(weights, dict):
        raise DataError(f"{path}: holds no weights. Name the model.pt of a run.")
    return weights["model"] if isinstance(weights.get("model"), dict) else weights
