# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from ..step import Pair, Step, View

__all__ = ["Term"]


class Term(nn.Module, ABC):
    """One summand of a method's loss: of a :class:`~..step.Step`, the loss of each network.

    A subclass says what it needs; nothing is computed that no term asks for. State (prototypes) belongs in buffers.

    Args:
        weight: factor on the term.

    Attributes:
        reads: streams on which the networks must have been run: ``labeled``, ``unlabeled``.
        needs_unlabeled: whether the term learns from unlabelled images: it is left out where there are none, and scaled
            by the method's ramp-up in the steps that :meth:`is_ramped` names.
        needs_labeler: whether it asks for the step's ``pseudo_labels``.
        weighs: whether it lets each of them count by its weight, where the labeler gives one.
    """

    reads: frozenset[str] = frozenset()
    needs_unlabeled: bool = False
    needs_labeler: bool = False
    weighs: bool = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def applies(self, step: Step) -> bool:
        """Whether the term takes part in this step."""
        return step.unlabeled is not None or not self.needs_unlabeled

    def is_ramped(self, step: Step) -> bool:
        """Whether it learns from unlabelled images in this step, and so counts by the method's ramp-up."""
        return self.needs_unlabeled

    def prepare(self, step: Step) -> View | None:
        """Images of the term's own, for the step's one forward pass; None: it needs none."""
        return None

    @abstractmethod
    def forward(self, step: Step) -> Tensor | Pair[Tensor] | dict[str, Tensor]:
        """The loss, not yet weighted: one for both networks, one of each, or several by name; 0-d."""
