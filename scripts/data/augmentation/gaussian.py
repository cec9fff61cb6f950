# SPDX-License-Identifier: Apache-2.0
"""MONAI's Gaussian noise and smoothing of crops in a fraction of their time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.networks.layers import gaussian_1d
from monai.transforms import RandGaussianNoise, RandGaussianNoised, RandGaussianSmoothd, RandomizableTransform

__all__ = ["FastRandGaussianNoised", "FastRandGaussianSmoothd", "gaussian_noise", "smooth"]


class FastRandGaussianNoised(RandGaussianNoised):
    """MONAI's ``RandGaussianNoised`` with the numbers drawn in float32; arguments as there.

    Source: ours.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = self.rand_gaussian_noise
        self.rand_gaussian_noise = _Noise(given.prob, given.mean, given.std, given.dtype, given.sample_std)


class _Noise(RandGaussianNoise):
    def draw(self, mean: float | None = None) -> tuple[float, float, int]:
        """Mean, deviation and seed of the next noise."""
        RandomizableTransform.randomize(self, None)
        std = self.R.uniform(0, self.std) if self.sample_std else self.std
        return self.mean if mean is None else mean, std, int(self.R.randint(2**31))

    def randomize(self, img: torch.Tensor, mean: float | None = None) -> None:
        self.noise = gaussian_noise(img.shape, *self.draw(mean))


def gaussian_noise(
    shape: Sequence[int], mean: float, std: float, seed: int, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Float32 noise [*shape] on a device; the same wherever the kind of device is the same.

    Args:
        shape: of the noise.
        mean: its mean.
        std: its standard deviation.
        seed: of its numbers.
        device: where it is drawn.
    """
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).mul_(std).add_(mean)


class FastRandGaussianSmoothd(RandGaussianSmoothd):
    """MONAI's ``RandGaussianSmoothd``, the same numbers to rounding, by shifted sums; arguments as there.

    Source: ours.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        self.randomize(None)
        if self._do_transform:
            self.rand_smooth.randomize(None)
            sigma = (self.rand_smooth.x, self.rand_smooth.y, self.rand_smooth.z)
            for key in self.key_iterator(item):
                item[key] = smooth(torch.as_tensor(item[key]).as_subclass(torch.Tensor), sigma, self.rand_smooth.approx)
        return item


def smooth(image: torch.Tensor, sigma: Sequence[float], approx: str = "erf") -> torch.Tensor:
    """Gaussian smoothing; zeros lie outside the image.

    Args:
        image: float [C, *S].
        sigma: in voxels, for each axis; further ones are ignored.
        approx: of the kernel, as in MONAI's ``GaussianSmooth``.

    Returns:
        As ``image``; a new tensor.
    """
    for axis, deviation in zip(range(1, image.ndim), sigma, strict=False):
        kernel = gaussian_1d(torch.tensor(deviation), approx=approx).tolist()
        middle, side = len(kernel) // 2, image.shape[axis]
        # conv3d with a kernel of one voxel's width goes ten times as slowly over memory as these sums
        out = image * kernel[middle]
        for step in range(1, min(middle + 1, side)):
            weight, rest = kernel[middle + step], side - step
            out.narrow(axis, 0, rest).add_(image.narrow(axis, step, rest), alpha=weight)
            out.narrow(axis, step, rest).add_(image.narrow(axis, 0, rest), alpha=weight)
        image = out
    return image
