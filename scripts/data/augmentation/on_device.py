# SPDX-License-Identifier: Apache-2.0
"""Intensity transforms that the loader draws and the device applies, to a whole batch on its way to the networks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from monai.transforms import (
    RandAdjustContrastd,
    Randomizable,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Transform,
)
from monai.utils import CommonKeys as Keys

from ...errors import DataError
from .gaussian import FastRandGaussianNoised, FastRandGaussianSmoothd, gaussian_noise, smooth

__all__ = ["DRAWN", "DrawIntensityd", "VaryIntensity", "draw_intensity"]

DRAWN = "drawn_intensity"
"""Key of what was drawn for a crop: float64 [transforms, 4], whether the transform is applied and its numbers."""

_NUMBERS = 3


class _Kind(NamedTuple):
    """How the numbers of a transform are drawn, and what they do to an image."""

    is_known: Callable[[Any], bool]
    draw: Callable[[Any], Sequence[float]]
    apply: Callable[..., torch.Tensor]


def adjust_contrast(image: torch.Tensor, gamma: float) -> torch.Tensor:
    """MONAI's ``AdjustContrast`` with ``retain_stats``, which waits for nothing that the device computes.

    Args:
        image: float [C, *S].
        gamma: exponent of the intensities, scaled to [0, 1].

    Returns:
        As ``image``; a new tensor.
    """
    lowest = image.min()
    width = image.max() - lowest
    varied = ((image - lowest) / (width + 1e-7)) ** gamma * width + lowest
    varied = varied - varied.mean()
    return image.std() * (varied / (varied.std() + 1e-8)) + image.mean()


def _draw_noise(transform: FastRandGaussianNoised) -> Sequence[float]:
    return transform.rand_gaussian_noise.draw()


def _apply_noise(image: torch.Tensor, mean: float, std: float, seed: float) -> torch.Tensor:
    return image + gaussian_noise(image.shape, mean, std, int(seed), image.device)


def _draw_smoothing(transform: FastRandGaussianSmoothd) -> Sequence[float]:
    transform.rand_smooth.randomize(None)
    return transform.rand_smooth.x, transform.rand_smooth.y, transform.rand_smooth.z


def _draw_factor(transform: RandScaleIntensityd) -> Sequence[float]:
    transform.scaler.randomize(None)
    return (transform.scaler.factor,)


def _draw_offset(transform: RandShiftIntensityd) -> Sequence[float]:
    transform.shifter.randomize(None)
    return (transform.shifter._offset,)


def _draw_gamma(transform: RandAdjustContrastd) -> Sequence[float]:
    transform.adjuster.randomize(None)
    return (transform.adjuster.gamma_value,)


_KINDS: dict[type, _Kind] = {
    FastRandGaussianNoised: _Kind(lambda one: True, _draw_noise, _apply_noise),
    FastRandGaussianSmoothd: _Kind(
        lambda one: one.rand_smooth.approx == "erf", _draw_smoothing, lambda image, *sigma: smooth(image, sigma)
    ),
    RandScaleIntensityd: _Kind(
        lambda one: not one.scaler.channel_wise, _draw_factor, lambda image, factor, *_: image * (1 + factor)
    ),
    RandShiftIntensityd: _Kind(
        lambda one: not one.shifter.channel_wise and set(one.factor_key) == {None},
        _draw_offset,
        lambda image, offset, *_: image + offset,
    ),
    RandAdjustContrastd: _Kind(
        lambda one: one.adjuster.adjust_contrast.retain_stats and not one.adjuster.adjust_contrast.invert_image,
        _draw_gamma,
        lambda image, gamma, *_: adjust_contrast(image, gamma),
    ),
}


def _kind(transform: Any) -> _Kind:
    """How to draw and apply a transform.

    Raises:
        DataError: when it, or one of its options, is not known here.
    """
    kind = _KINDS.get(type(transform))
    if kind is None or not kind.is_known(transform) or tuple(transform.keys) != (Keys.IMAGE,):
        raise DataError(
            f"intensity_on_device: {type(transform).__name__} is not applied on the device with these arguments. There "
            f"are {', '.join(one.__name__ for one in _KINDS)}, of the image alone and of all its channels alike. Set "
            "intensity_on_device to False: then the loader applies it."
        )
    return kind


class DrawIntensityd(Randomizable, Transform):
    """Draws for a crop what a transform would draw, and leaves the crop as it is (ours).

    The random numbers are those of the transform in its place: with the same seed :class:`VaryIntensity` gives the
    crops that the transform gives.

    Args:
        transform: what draws.
        place: index of the transform among those of its stream.
        count: how many there are.

    Raises:
        DataError: when the transform is not one of those that :class:`VaryIntensity` applies.
    """

    def __init__(self, transform: Any, place: int, count: int) -> None:
        self.transform, self.place, self.count = transform, place, count
        self.kind = _kind(transform)

    def set_random_state(self, seed: int | None = None, state: Any = None) -> DrawIntensityd:
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Note the numbers under ``DRAWN``."""
        item = dict(data)
        drawn = item.setdefault(DRAWN, torch.zeros(self.count, 1 + _NUMBERS, dtype=torch.float64))
        self.transform.randomize(None)
        if self.transform._do_transform:
            numbers = self.kind.draw(self.transform)
            drawn[self.place, : 1 + len(numbers)] = torch.tensor([1, *numbers], dtype=torch.float64)
        return item


def draw_intensity(transforms: Sequence[Any], on_device: bool = True) -> list[Any]:
    """What a loader does in place of intensity transforms: for each one that only draws.

    Args:
        transforms: intensity transforms of a stream.
        on_device: whether the device applies them; if not, they are returned as they are.

    Raises:
        DataError: when one cannot be applied on the device.
    """
    if not on_device:
        return list(transforms)
    return [DrawIntensityd(transform, place, len(transforms)) for place, transform in enumerate(transforms)]


class VaryIntensity:
    """Applies to a batch what :class:`DrawIntensityd` has drawn for it (ours).

    What is drawn lies on the host, so that nothing waits for the device.

    Args:
        transforms: the intensity transforms of the stream, in their order.
        keep_as: key under which the images stay as they were, or None.

    Raises:
        DataError: when one of the transforms cannot be applied on the device.
    """

    def __init__(self, transforms: Sequence[Any], keep_as: str | None = None) -> None:
        self.kinds = [_kind(transform) for transform in transforms]
        self.keep_as = keep_as

    def __call__(self, batch: Mapping[str, torch.Tensor], drawn: torch.Tensor) -> dict[str, torch.Tensor]:
        """The batch with its images varied.

        Args:
            batch: on the device, with ``image`` [B, C, *S].
            drawn: float64 [B, transforms, 4] on the host.
        """
        varied = []
        for image, rows in zip(batch[Keys.IMAGE], drawn.tolist(), strict=True):
            for kind, (is_applied, *numbers) in zip(self.kinds, rows, strict=True):
                image = kind.apply(image, *numbers) if is_applied else image
            varied.append(image)
        kept = {} if self.keep_as is None else {self.keep_as: batch[Keys.IMAGE]}
        return {**batch, **kept, Keys.IMAGE: torch.stack(varied)}
