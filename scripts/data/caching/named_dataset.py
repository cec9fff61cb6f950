# SPDX-License-Identifier: Apache-2.0
"""Datasets that say which scan and which transform made numbers that are not finite."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, Randomizable, apply_transform

from ..datalist.read import image_files

__all__ = ["NamedCacheDataset", "NamesSpoiltCrops"]

logger = logging.getLogger(__name__)


class NamesSpoiltCrops(Dataset):
    """For MONAI's datasets: a crop with nan or infinity is named with its scan and the transform that made it (ours).

    Each crop is looked at once, when it is ready. Only when it is not finite are its transforms repeated, one by one
    and with the random numbers that they had. The crop is given out as it is: the trainer skips the step.

    Args:
        args, kwargs: as in the dataset of MONAI; the items of ``data`` are those of a datalist.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._told: set[tuple[str, str]] = set()
        super().__init__(*args, **kwargs)

    def _transform(self, index: int) -> Any:
        before = self._states()
        item = super()._transform(index)
        if _is_spoilt(item):
            after = self._states()
            self._set(before)
            self._tell(index)
            self._set(after)
        return item

    def _states(self) -> list[tuple[np.random.RandomState, Any]]:
        return [(generator, generator.get_state()) for generator in _generators(self.transform)]

    @staticmethod
    def _set(states: list[tuple[np.random.RandomState, Any]]) -> None:
        for generator, state in states:
            generator.set_state(state)

    def _tell(self, index: int) -> None:
        item, found = self.data[index], "the last transform"
        for transform in _steps(self.transform):
            item = apply_transform(transform, item)
            if _is_spoilt(item):
                found = type(transform).__name__
                break
        scan = image_files(self.data[index])[0]
        if (scan, found) not in self._told:
            self._told.add((scan, found))
            logger.warning("%s: a crop of it is not finite after %s. Steps with such crops are skipped.", scan, found)


class NamedCacheDataset(NamesSpoiltCrops, CacheDataset):
    """MONAI's CacheDataset with :class:`NamesSpoiltCrops`."""


def _is_spoilt(item: Any) -> bool:
    """Whether a tensor in an item, or in a list of items, is not finite."""
    if isinstance(item, list | tuple):
        return any(map(_is_spoilt, item))
    if isinstance(item, Mapping):
        return any(map(_is_spoilt, item.values()))
    if not (isinstance(item, torch.Tensor) and item.is_floating_point()):
        return False
    # The sum alone is far quicker, and finite only when all are; huge numbers that it overflows are looked at again.
    return not (bool(item.sum().isfinite()) or bool(item.isfinite().all()))


def _steps(transform: Compose) -> Iterator[Any]:
    """The transforms one by one; not by ``flatten``, since every new Compose seeds them anew."""
    for step in transform.transforms:
        if type(step) is Compose:
            yield from _steps(step)
        else:
            yield step


def _generators(transform: Any) -> Iterator[np.random.RandomState]:
    """The random generators of a transform, and of those that it holds."""
    if isinstance(transform, Randomizable) and isinstance(transform.R, np.random.RandomState):
        yield transform.R
    for value in vars(transform).values():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Randomizable) and part is not transform:
                yield from _generators(part)
