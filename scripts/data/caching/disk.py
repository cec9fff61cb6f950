# SPDX-License-Identifier: Apache-2.0
"""Scans on the working grid in a folder, of which a crop reads only its own part."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from monai.data import PersistentDataset
from monai.transforms import Compose, RandomizableTrait, Transform, convert_to_contiguous
from monai.utils import convert_to_tensor

from ...files import replace_file
from ..datalist.read import case_files
from ..io.content import content_key, described
from .named_dataset import NamesSpoiltCrops

__all__ = ["DiskCacheDataset"]

logger = logging.getLogger(__name__)


class DiskCacheDataset(NamesSpoiltCrops, PersistentDataset):
    """MONAI's PersistentDataset that maps its files into memory and knows scans by content.

    A scan's transforms up to the first random one are computed when it is first asked for, by whichever process that
    is. Afterwards a crop reads what it shows, not the whole scan. A file of the cache is named after path, size and
    time of change of the scan's files, the settings of the transforms and the code: whatever changes, it is made anew.
    Many runs and processes may share the folder; it may be removed whenever none is running.

    Args:
        data: items of a datalist.
        transform: MONAI's ``Compose``; before the first random transform, items hold tensors and plain values.
        cache_dir: the folder.

    Raises:
        DataError: when the folder cannot be written.

    Source: ours.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Compose, cache_dir: str | Path) -> None:
        super().__init__(data, transform, cache_dir=None)
        self.folder = Path(cache_dir)
        first_random = self.transform.get_index_of_first(
            lambda one: isinstance(one, RandomizableTrait) or not isinstance(one, Transform)
        )
        self.settings = described(self.transform.transforms[:first_random])

    def set_data(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Other items; the folder keeps what it has, which others may be using."""
        self.data = data

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> Any:
        item = item_transformed
        key = content_key(case_files(item), [dict(item), self.settings])
        path = self.folder / key[:2] / f"{key}.pt"  # a folder for each of 256, as one of 100,000 files is slow to list
        if path.is_file():
            try:
                return _load(path)
            except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
                logger.warning("%s: cannot be read (%s). It is made anew.", path, str(error).split("\n")[0])
        made = convert_to_contiguous(self._pre_transform(deepcopy(dict(item))))
        with replace_file(path) as temporary:
            torch.save(convert_to_tensor(made, convert_numeric=False, track_meta=False), temporary)
        return _load(path)


def _load(path: Path) -> Any:
    # A private map: what a transform writes in place stays in this process.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
