# SPDX-License-Identifier: Apache-2.0
"""From class probabilities to regions, unions of classes that may overlap."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

__all__ = ["DecodeRegionsd", "RegionMasksd", "decode_regions"]


def decode_regions(probabilities: Tensor, regions: Mapping[str, Sequence[int]]) -> Tensor:
    """The one class of each voxel, so that it is in the regions whose probability is above one half (ours).

    A region's probability is the sum over its classes. Of the classes that are in exactly these regions the most
    probable is taken. For nested regions there always is one, and the unions of the result are the regions above one
    half: what nnU-Net writes by its ``regions_class_order``. Where there is none, it is the most probable class of all.

    Args:
        probabilities: [C, *S].
        regions: class numbers of each region.

    Returns:
        Class numbers [*S].

    Example:
        >>> p = torch.tensor([[0.4], [0.3], [0.3]])  # background is the most probable, and yet the whole is
        >>> decode_regions(p, {"whole": [1, 2], "core": [2]})
        tensor([1])
    """
    above = [probabilities[list(classes)].sum(0) > 0.5 for classes in regions.values()]
    fitting = torch.ones_like(probabilities, dtype=torch.bool)
    for number, fits in enumerate(fitting):
        for inside, classes in zip(above, regions.values(), strict=True):
            fits &= inside if number in classes else ~inside
    return torch.where(fitting | ~fitting.any(0), probabilities, -1).argmax(0)


class DecodeRegionsd(MapTransform):
    """Class probabilities [C, *S] become one-hot, each voxel in the class that :func:`decode_regions` finds (ours).

    Args:
        keys: of the probabilities.
        regions: class numbers of each region, by its name.
        allow_missing_keys: whether items may lack a key.
    """

    def __init__(
        self, keys: KeysCollection, regions: Mapping[str, Sequence[int]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.regions = regions

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            found = decode_regions(torch.as_tensor(item[key]).as_subclass(Tensor), self.regions)
            item[key] = item[key].clone()  # with its geometry
            item[key][:] = torch.arange(len(item[key]), device=found.device).view(-1, *[1] * found.dim()) == found
        return item


class RegionMasksd(MapTransform):
    """One-hot segmentations [C, *S] become background and one channel for each region, [1 + R, *S] (ours).

    For metrics that compare channel by channel, such as MONAI's ``MeanDice``.

    Args:
        keys: of the segmentations.
        regions: class numbers of each region, by its name.

    Example:
        >>> pred = torch.eye(3)[:, [0, 1, 2]]  # voxels of the classes 0, 1, 2
        >>> RegionMasksd("pred", {"whole": [1, 2], "core": [2]})({"pred": pred})["pred"].tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    """

    def __init__(self, keys: KeysCollection, regions: Mapping[str, Sequence[int]]) -> None:
        super().__init__(keys)
        self.regions = regions

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            unions = [item[key][list(classes)].amax(0, keepdim=True) for classes in self.regions.values()]
            item[key] = torch.cat([item[key][:1], *unions])
        return item
