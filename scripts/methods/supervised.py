# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping

from monai.utils import CommonKeys as Keys
from torch import Tensor, nn

from ..networks import DualOutput
from .method import Method, supervised_losses

__all__ = ["SupervisedMethod"]


class SupervisedMethod(Method):
    """Both networks on the labelled scans alone: the honest baseline of every semi-supervised figure (ours).

    The unlabelled batch is ignored, also by normalisation layers.

    Args:
        supervised: loss of (logits [B,C,*S], label [B,1,*S]), term 1 of the method, e.g. ``monai.losses.DiceCELoss``.
    """

    def __init__(self, supervised: nn.Module) -> None:
        super().__init__()
        self.supervised = supervised

    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        output, label = network(labeled[Keys.IMAGE]), labeled[Keys.LABEL]
        self.observe_labels(label, output.a.logits.shape[1])
        return supervised_losses(self.supervised, output, label)
