# SPDX-License-Identifier: Apache-2.0
"""Ramp-ups: how much the unlabelled terms count, as a function of how much of the training is done (term 8)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

__all__ = ["CosineRamp", "LinearRamp", "SigmoidRamp"]


class _Ramp(ABC):
    def __init__(self, length: float = 0.4) -> None:
        """
        Args:
            length: share of the training that the ramp takes, in [0, 1]. 0 means full weight from the start.

        Raises:
            ValueError: When ``length`` is not in [0, 1].
        """
        if not 0.0 <= length <= 1.0:
            raise ValueError(f"length must be a share of the training in [0, 1], got {length}")
        self.length = float(length)

    def __call__(self, progress: float) -> float:
        """
        Weight in [0, 1] when the share ``progress`` of the training is done; after the end it stays 1.

        Raises:
            ValueError: When ``progress`` is negative or not a number.
        """
        if not progress >= 0:
            raise ValueError(f"progress must be a share of the training, at least 0, got {progress}")
        return self._shape(min(progress / self.length, 1.0) if self.length > 0 else 1.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(length={self.length})"

    @abstractmethod
    def _shape(self, done: float) -> float:
        """Weight when the share ``done`` of the ramp is behind."""


class SigmoidRamp(_Ramp):
    """
    Ramp-up ``exp(-5 (1 - min(t / length, 1))^2)``.

    Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, https://arxiv.org/abs/1610.02242.

    Example:
        >>> ramp = SigmoidRamp(length=0.4)
        >>> [round(ramp(t), 4) for t in (0.0, 0.2, 0.4, 1.0)]
        [0.0067, 0.2865, 1.0, 1.0]
    """

    def _shape(self, done: float) -> float:
        return math.exp(-5.0 * (1.0 - done) ** 2)


class LinearRamp(_Ramp):
    """
    Ramp-up ``min(t / length, 1)``.

    Example:
        >>> LinearRamp(length=0.5)(0.25)
        0.5
    """

    def _shape(self, done: float) -> float:
        return done


class CosineRamp(_Ramp):
    """
    Ramp-up ``(1 - cos(pi min(t / length, 1))) / 2``, flat at both ends.

    Example:
        >>> round(CosineRamp(length=0.5)(0.25), 4)
        0.5
    """

    def _shape(self, done: float) -> float:
        return (1.0 - math.cos(math.pi * done)) / 2.0
