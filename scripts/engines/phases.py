# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ..errors import DataError

__all__ = ["Phases"]


class Phases:
    """The two parts of a training: a supervised start, then the unlabelled scans beside the labelled ones (ours).

    In each part the learning rate falls from the full one to zero, as in two trainings one after the other: the second
    starts from what the first has converged to. BCP and SDCL train in two parts like this (2,000 of 17,000 steps).

    Args:
        warm_up: length of the supervised part: a fraction of the training below 1, or a number of steps; it is rounded
            to whole epochs, a fraction to at least one where there are two. 0: there is none.
        max_epochs: epochs of both parts together.
        epoch_length: steps of an epoch.
        power: of the polynomial by which the learning rate falls.

    Attributes:
        warm_up_epochs: whole epochs of the supervised part.

    Raises:
        DataError: when the supervised part is negative, or a number of steps that leaves a part without an epoch.

    Example:
        >>> phases = Phases(0.4, max_epochs=10, epoch_length=50)
        >>> phases.warm_up_epochs, phases.fraction
        (4, 0.4)
        >>> [round(phases.learning_rate_factor(epoch), 2) for epoch in (0, 2, 4, 7)]
        [1.0, 0.54, 1.0, 0.54]
    """

    def __init__(self, warm_up: float, max_epochs: int, epoch_length: int, power: float = 0.9) -> None:
        epochs = warm_up * max_epochs if warm_up < 1 else warm_up / epoch_length
        self.warm_up_epochs = round(epochs)
        if 0 < warm_up < 1:  # of a short training each part gets an epoch, of one epoch the second part gets it
            self.warm_up_epochs = min(max(1, self.warm_up_epochs), max_epochs - 1)
        elif warm_up < 0 or (warm_up > 0 and not 0 < self.warm_up_epochs < max_epochs):
            raise DataError(
                f"warm_up {warm_up}: {self.warm_up_epochs} of {max_epochs} epochs. Give 0, a fraction of the training "
                f"below 1, or a number of steps, that leaves at least one epoch of {epoch_length} steps to each part."
            )
        self.max_epochs = max_epochs
        self.power = power

    @property
    def fraction(self) -> float:
        """Share of the training that the supervised part takes, in [0, 1)."""
        return self.warm_up_epochs / self.max_epochs

    def learning_rate_factor(self, epoch: int) -> float:
        """Factor on the learning rate after this many epochs, for ``torch.optim.lr_scheduler.LambdaLR``."""
        start, end = (0, self.warm_up_epochs) if epoch < self.warm_up_epochs else (self.warm_up_epochs, self.max_epochs)
        return max(0.0, 1 - (epoch - start) / (end - start)) ** self.power
