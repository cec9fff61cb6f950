# SPDX-License-Identifier: Apache-2.0
"""Normalise each channel as its modality asks for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, NormalizeIntensity


class NormalizeByModalityd(MapTransform):
    """Give networks intensities of about zero mean and unit deviation, channel by channel.

    CT (Hounsfield units mean the same in every scan): clipped to ``low`` and ``high``, then shifted by ``mean`` and
    divided by ``deviation``, all from the data set. Any other modality: mean and deviation of the scan itself.

    Args:
        keys: of the images ``[C, X, Y, Z]``.
        channels: one entry for each channel, :attr:`Fingerprint.intensity`.
        allow_missing_keys: whether items may lack a key.

    Raises:
        ValueError: when an image has another number of channels.

    Example:
        >>> NormalizeByModalityd("image", [{"modality": "other"}])({"image": torch.rand(1, 8, 8, 8)})["image"].mean()

    Source: nnU-Net's scheme (Isensee et al., Nature Methods 2021).
    """

    def __init__(
        self, keys: KeysCollection, channels: Sequence[Mapping[str, Any]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels
        self.normalize = NormalizeIntensity()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            if len(image) != len(self.channels):
                raise ValueError(f"image of {len(image)} channels, but {len(self.channels)} are described.")
            # Written into a copy, so that MONAI's record of the geometry stays on the image.
            normalized = image.clone().to(torch.float32)
            for number, channel in enumerate(self.channels):
                values = image[number].to(torch.float32)
                if channel["modality"] == "CT":
                    clipped = values.clip(channel["low"], channel["high"])
                    normalized[number] = (clipped - channel["mean"]) / channel["deviation"]
                else:
                    normalized[number] = self.normalize(values)
            item[key] = normalized
        return item
