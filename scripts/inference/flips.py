# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

__all__ = ["FlipInferer"]


class FlipInferer(Inferer):
    """
    Averages another inferer's probabilities over mirrored views of the scan (ours).

    Args:
        inferer: gives logits, or logarithms of probabilities, [B, C, *S].
        axes: spatial axes to mirror, 0 for the first; all their combinations are views: two axes, four views. Take
            those along which the training mirrored its crops. None: ``inferer`` alone, untouched.

    Example:
        >>> FlipInferer(SimpleInferer(), axes=[0])(torch.zeros(1, 1, 4, 4, 4), network).shape  # doctest: +SKIP
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = ()) -> None:
        super().__init__()
        if any(axis < 0 for axis in axes) or len(set(axes)) != len(axes):
            raise ValueError(f"axes must be different numbers from 0 on, got {list(axes)}.")
        self.inferer = inferer
        axes = [axis + 2 for axis in axes]
        self.views = [view for count in range(len(axes) + 1) for view in combinations(axes, count)]

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor | tuple[Tensor, ...]], *args: Any, **kwargs: Any
    ) -> Tensor | tuple[Tensor, ...]:
        """
        Args:
            inputs: images [B, C_in, *S].
            network: gives logits, or a tuple of them.
            *args: handed on to the inferer.
            **kwargs: handed on to the inferer.

        Returns:
            Logarithm of the mean probability [B, C, *S], of each of a tuple; without axes, what the inferer gives.
        """
        if len(self.views) == 1:
            return self.inferer(inputs, network, *args, **kwargs)
        total: list[Tensor] = []
        for view in self.views:
            outputs = self.inferer(torch.flip(inputs, view), network, *args, **kwargs)
            several = isinstance(outputs, tuple)
            parts = [torch.flip(logits.softmax(1), view) for logits in (outputs if several else (outputs,))]
            total = parts if not total else [mean.add_(part) for mean, part in zip(total, parts, strict=True)]
        logs = [(part / len(self.views)).clamp_min(torch.finfo(part.dtype).tiny).log() for part in total]
        return tuple(logs) if several else logs[0]
