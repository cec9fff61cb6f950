# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from ..losses.labelers.largest_component import LargestComponent

__all__ = ["KeepLargestPartd"]


class KeepLargestPartd(MapTransform):
    """Of some classes keeps only the largest connected part; the rest becomes background (ours).

    MONAI's KeepLargestConnectedComponentd does so with scikit-image, this one with scipy.

    Args:
        keys: of class maps [1, *S].
        classes: which ones, each at least 1.
        allow_missing_keys: whether items may lack a key.
    """

    def __init__(self, keys: KeysCollection, classes: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.clean = LargestComponent(classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clean the class maps, geometry and type unchanged."""
        item = dict(data)
        for key in self.key_iterator(item):
            cleaned, _ = self.clean(item[key][None].long())
            item[key] = convert_to_dst_type(cleaned[0], item[key])[0]
        return item
