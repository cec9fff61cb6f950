# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.transforms import Spacingd

__all__ = ["LoneSpacingd"]


class LoneSpacingd(Spacingd):
    """MONAI's ``Spacingd`` that sees nothing but its own keys (ours).

    MONAI takes every key that starts with ``image_`` for metadata of ``image``, and MONAI Label keeps the path of the
    scan in ``image_path``: with a NIfTI file the original fails. Arguments as in ``monai.transforms.Spacingd``.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        """Resample ``data[key]`` [C,*S] for each key; the other entries are passed on untouched."""
        return {**data, **super().__call__({key: data[key] for key in self.key_iterator(data)}, lazy)}
