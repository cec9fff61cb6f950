# SPDX-License-Identifier: Apache-2.0
"""Other views of the unlabelled images: intensities varied once more, boxes exchanged; no voxel moves."""

from __future__ import annotations

import torch
from monai.transforms import Compose, RandAdjustContrastd, RandScaleIntensityd, RandShiftIntensityd
from monai.utils import CommonKeys as Keys
from torch import Tensor

from ...data import DRAWN, FastRandGaussianNoised, FastRandGaussianSmoothd, VaryIntensity, draw_intensity

__all__ = ["CutMix", "StrongView", "from_partner"]


class StrongView:
    """Varies the intensities of every image of a batch by itself, as the loader does (ours).

    The defaults are the config's level ``strong``, applied oftener. What is drawn is drawn on the host, so that nothing
    waits for the device.

    Args:
        prob: of each variation, in [0, 1].
        noise, contrast, brightness: ranges as in the config; noise and brightness in units of the normalised image.
        gamma: range of the exponent.
        sigma: range of the blur, in voxels.
    """

    def __init__(
        self,
        prob: float = 0.8,
        noise: float = 0.3,
        contrast: float = 0.35,
        brightness: float = 0.3,
        gamma: tuple[float, float] = (0.65, 1.6),
        sigma: tuple[float, float] = (0.5, 1.0),
    ) -> None:
        transforms = [
            FastRandGaussianNoised(Keys.IMAGE, prob, std=noise),
            FastRandGaussianSmoothd(Keys.IMAGE, sigma, sigma, sigma, prob=prob),
            RandScaleIntensityd(Keys.IMAGE, contrast, prob),
            RandShiftIntensityd(Keys.IMAGE, brightness, prob=prob),
            RandAdjustContrastd(Keys.IMAGE, prob, gamma, retain_stats=True),
        ]
        self.draw = Compose(draw_intensity(transforms))
        self.vary = VaryIntensity(transforms)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Vary images [N,channels,*S]; their copies have the same shape."""
        # MONAI's transforms draw from a generator of their own. The trainer seeds torch's at every epoch, and so, by
        # this line, also theirs: a resumed run sees the same views.
        self.draw.set_random_state(seed=int(torch.randint(2**31 - 1, ())))
        drawn = torch.stack([self.draw({})[DRAWN] for _ in image])
        return self.vary({Keys.IMAGE: image}, drawn)[Keys.IMAGE]


class CutMix:
    """Draws a box for every image of a batch, in which it is to show the image before it.

    Yun et al., "CutMix", ICCV 2019, arXiv 1905.04899; the range of sizes is that of Yang et al., UniMatch, CVPR 2023,
    for 2D. Ours: the box has the image's proportions, and its partner is of the same batch.

    Args:
        prob: of a box, in [0, 1].
        volume: range of its volume, as a fraction of the image's.

    Raises:
        ValueError: when an argument is out of its range.
    """

    def __init__(self, prob: float = 0.5, volume: tuple[float, float] = (0.02, 0.4)) -> None:
        if not (0 <= prob <= 1 and 0 < volume[0] <= volume[1] < 1):
            raise ValueError(f"prob must be in [0, 1] and volume a range in (0, 1), got {prob} and {tuple(volume)}.")
        self.prob = prob
        self.volume = tuple(volume)

    def __call__(self, image: Tensor) -> Tensor:
        """True inside the box of each image: [N,1,*S] for images [N,channels,*S]."""
        size = image.shape[2:]
        boxes = torch.zeros(len(image), 1, *size, dtype=torch.bool, device=image.device)
        for box in boxes:
            if torch.rand(()) >= self.prob:
                continue
            share = torch.empty(()).uniform_(*self.volume).item() ** (1 / len(size))
            lengths = [max(1, round(share * length)) for length in size]
            starts = [int(torch.randint(0, full - part + 1, ())) for full, part in zip(size, lengths, strict=True)]
            inside = [slice(None)]
            inside += [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
            box[tuple(inside)] = True
        return boxes


def from_partner(maps: Tensor, boxes: Tensor) -> Tensor:
    """Maps [N,channels,*S] that show, inside their boxes [N,1,*S], the map before them in the batch."""
    return torch.where(boxes, maps.roll(1, 0), maps)
