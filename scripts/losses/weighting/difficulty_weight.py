# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..running_mean import RunningMean, sum_over_ranks
from ..voxelwise import check_classes

__all__ = ["DifficultyWeight"]

# A Dice below this counts as this: the logarithm of its change would drown all later changes.
SMALLEST_DICE = 1e-3
SMALLEST_CHANGE = 1e-8


class DifficultyWeight(nn.Module):
    r"""
    Weight of each class from how hard it is to learn: low in Dice, slow to gain, quick to lose.

    With the Dice :math:`d` of a class now and at the last update, and moving averages :math:`\overline{\,\cdot\,}`,

    .. math::
        w_c \propto \Big(\frac{\overline{u_c}}{\overline{l_c}}\Big)^{\alpha} \, \overline{1 - d_c}, \qquad
        (l_c \text{ if } d_c > d_c^{last} \text{ else } u_c) = (d_c - d_c^{last}) \log \frac{d_c}{d_c^{last}}

    so that what was learnt, l, makes a class lighter, and what was unlearnt, u, heavier. The weights have mean 1. A
    class whose Dice is not finite (absent from the batch) stays as it is. When ``torch.distributed`` is initialised,
    the Dice is the mean over the ranks that have it, and every rank must call :meth:`update` at every step.

    Wang and Li, "Towards Generic Semi-Supervised Framework for Volumetric Medical Image Segmentation", NeurIPS 2023,
    https://arxiv.org/abs/2310.11320; the weights are those of Wang and Li, "DHC: Dual-debiased Heterogeneous
    Co-training Framework for Class-imbalanced Semi-supervised Medical Image Segmentation", MICCAI 2023,
    https://arxiv.org/abs/2307.11960. The mean of 1 is ours, and so is that the first update changes nothing but the
    Dice: there is nothing yet to compare it with.

    Attributes:
        last: buffer [C], the latest Dice.
        seen: bool buffer [C], True for the classes that have one.
        learned: :class:`~.RunningMean` of C numbers, l.
        unlearned: :class:`~.RunningMean` of C numbers, u.
        missing: :class:`~.RunningMean` of C numbers, 1 - d.

    Example:
        >>> import torch
        >>> weight = DifficultyWeight(num_classes=3, momentum=0.5)
        >>> for dice in ([0.9, 0.2, 0.4], [0.9, 0.6, 0.2]):
        ...     weight.update(torch.tensor(dice))
        >>> weight.weights.argsort().tolist()  # class 2 loses what it had; class 0 is known; class 1 learns fast
        [1, 0, 2]
    """

    last: torch.Tensor
    seen: torch.Tensor

    def __init__(self, num_classes: int, momentum: float = 0.95, exponent: float = 0.2) -> None:
        """
        Args:
            num_classes: number of classes C, background included.
            momentum: of the moving averages, in [0, 1].
            exponent: alpha, at least 0.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        check_classes(num_classes)
        if not exponent >= 0:
            raise ValueError(f"exponent must be at least 0, got {exponent}")
        self.exponent = float(exponent)
        self.register_buffer("last", torch.zeros(num_classes))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))
        self.learned = RunningMean(torch.zeros(num_classes), momentum)
        self.unlearned = RunningMean(torch.zeros(num_classes), momentum)
        self.missing = RunningMean(torch.ones(num_classes), momentum)

    @property
    def weights(self) -> torch.Tensor:
        """Weight of each class, [C], float32, with a mean of 1."""
        change = (self.unlearned.value + SMALLEST_CHANGE) / (self.learned.value + SMALLEST_CHANGE)
        weights = change.pow(self.exponent) * self.missing.value.clamp(min=SMALLEST_CHANGE)
        return weights / weights.mean()

    @torch.no_grad()
    def update(self, dice: torch.Tensor) -> None:
        """
        Args:
            dice: Dice of each class in this rank's batch, [C], in [0, 1]; not finite where a class is absent.

        Raises:
            ValueError: When ``dice`` is not of shape [C].
        """
        if dice.shape != self.last.shape:
            raise ValueError(f"dice must be of shape {tuple(self.last.shape)}, got {tuple(dice.shape)}")
        here = dice.isfinite()
        total = sum_over_ranks(torch.stack([dice.detach().masked_fill(~here, 0.0).to(self.last), here.to(self.last)]))
        present = total[1] > 0
        now = (total[0] / total[1].clamp(min=1)).clamp(SMALLEST_DICE, 1.0)
        last = torch.where(self.seen, self.last, now)
        change = (now - last) * (now / last).log()
        compared = present & self.seen
        self.learned.move(change * (now > last), compared)
        self.unlearned.move(change * (now <= last), compared)
        self.missing.move(1 - now, compared)
        self.last.copy_(torch.where(present, now, self.last))
        self.seen.logical_or_(present)

    def forward(self) -> torch.Tensor:
        """Return :attr:`weights`."""
        return self.weights
