# SPDX-License-Identifier: Apache-2.0
"""Find a random voxel of a class without looking through the whole label for it each time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["COUNTS", "ClassCountsd", "ClassVoxels"]

COUNTS = "class_counts"
"""Key of the counts in an item."""


class ClassCountsd(MapTransform):
    """Count, once per scan and before it is cached, the voxels of each class in each plane of its label.

    An item gets ``class_counts``, int64 [C, planes along the first axis]: some kilobytes, where the indices of MONAI's
    ``ClassesToIndicesd`` take twice as much memory as the label itself. :class:`~.affine_crop.RandAffineCropd` takes
    them out again. Voxels that nobody has annotated are in no class.

    Args:
        keys: of the label [1, *S].
        num_classes: C, background included.
        allow_missing_keys: whether items may lack the label; they get no counts.

    Source: ours.
    """

    def __init__(self, keys: KeysCollection, num_classes: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            planes = torch.as_tensor(item[key][0]).flatten(1)
            item[COUNTS] = torch.stack([(planes == number).sum(1) for number in range(self.num_classes)])
        return item


class ClassVoxels(Sequence):
    """The flat indices of a class's voxels, in order, as MONAI's crops want them: each is looked up when asked for.

    Args:
        label: whole label [*S].
        number: the class.
        counts: its voxels in each plane along the first axis.
    """

    def __init__(self, label: torch.Tensor, number: int, counts: torch.Tensor) -> None:
        self.label = label
        self.number = number
        self.up_to = counts.cumsum(0)

    def __len__(self) -> int:
        return int(self.up_to[-1])

    def __getitem__(self, index: int) -> int:
        plane = int(torch.searchsorted(self.up_to, index, right=True))
        before = int(self.up_to[plane - 1]) if plane else 0
        voxels = self.label[plane].flatten()
        return plane * voxels.numel() + int((voxels == self.number).nonzero()[index - before])
