# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from inspect import signature

from torch import Tensor, nn

from ...errors import DataError
from ..step import Pair, Step
from .term import Term

__all__ = ["Supervised"]


class Supervised(Term):
    """Each network learns the labels of the labelled images (term 1 of the method).

    Args:
        loss: of (logits [B,C,*S], label [B,1,*S]), e.g. ``monai.losses.DiceCELoss``. Where voxels or classes of the
            labels are missing, it also has to take ``mask`` [B,1,*S] and ``classes`` [B,C], as
            :class:`~...losses.PartialDiceCELoss`.
        weight: factor on the term.

    Raises:
        DataError: when labels are not complete, and the loss cannot leave out what is missing.
    """

    reads = frozenset({"labeled"})

    def __init__(self, loss: nn.Module, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.loss = loss

    def forward(self, step: Step) -> Pair[Tensor]:
        if step.classes is not None and not {"mask", "classes"} <= signature(self.loss.forward).parameters.keys():
            raise DataError(
                f"The labels have ignored voxels or classes that were not annotated, and {type(self.loss).__name__} "
                "cannot leave them out. Use scripts.losses.PartialDiceCELoss as supervised_loss."
            )
        return Pair(*(step.against_labels(self.loss, prediction.logits) for prediction in step.on_labeled))
