# SPDX-License-Identifier: Apache-2.0
"""Labels that are not complete: say in one way which voxels and classes were annotated."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ...annotation import CLASSES, IGNORED

__all__ = ["AnnotatedLabeld", "LeaveOutIgnoredd"]


class AnnotatedLabeld(MapTransform):
    """Turn the data set's ignored value into :data:`~...annotation.IGNORED`, and note which classes were annotated.

    An item gets ``classes``, bool [C]: all, or those that its datalist entry lists under that name. A label that is a
    ``MetaTensor`` carries them in its metadata, too, where metrics find them. An item without a label gets none.

    Args:
        keys: of the labels [1, *S].
        num_classes: C, background included.
        ignore: value of the voxels that nobody has annotated; None: there is none.
        allow_missing_keys: whether items may lack a key.

    Example:
        >>> item = {"label": torch.tensor([[0, 255, 1]]), "classes": [1]}
        >>> AnnotatedLabeld("label", num_classes=3, ignore=255)(item)
        {'label': tensor([[ 0, -1,  1]]), 'classes': tensor([ True,  True, False])}

    Source: ours.
    """

    def __init__(
        self, keys: KeysCollection, num_classes: int, ignore: int | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes = num_classes
        self.ignore = ignore

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        listed = item.pop(CLASSES, None)
        classes = torch.full((self.num_classes,), listed is None)
        classes[[0, *(listed or [])]] = True
        for key in self.key_iterator(item):
            label = item[key]
            if self.ignore is not None:
                signed = label if label.dtype.is_signed else label.to(torch.int32)
                label = signed.masked_fill(label == self.ignore, IGNORED)
            if isinstance(label, MetaTensor):
                label.meta[CLASSES] = classes
            item |= {key: label, CLASSES: classes}
        return item


class LeaveOutIgnoredd(MapTransform):
    """Make voxels that nobody has annotated background in predictions and label, so that no class is judged there.

    For metrics that compare foreground classes by their voxels, such as MONAI's ``MeanDice``.

    Args:
        keys: of the predictions, probabilities or one-hot [C, *S].
        label_key: of the label [1, *S] on the same grid, with :data:`~...annotation.IGNORED`.
        allow_missing_keys: whether items may lack a key.

    Example:
        >>> item = {"pred": torch.tensor([[0, 0], [1, 1]]), "label": torch.tensor([[1, -1]])}
        >>> [value.tolist() for value in LeaveOutIgnoredd("pred")(item).values()]
        [[[0, 1], [1, 0]], [[1, 0]]]

    Source: ours.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        label = item[self.label_key]
        ignored = torch.as_tensor(label == IGNORED).as_subclass(torch.Tensor)
        for key in self.key_iterator(item):
            pred = item[key].masked_fill(ignored.to(item[key].device), 0)
            pred[:1] = pred[:1].masked_fill(ignored.to(pred.device), 1)
            item[key] = pred
        item[self.label_key] = label.masked_fill(ignored, 0)
        return item
