# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..networks import DualOutput
from .method import Method, forward_jointly, supervised_losses

__all__ = ["CrossPseudoSupervisionMethod"]


class CrossPseudoSupervisionMethod(Method):
    """Cross pseudo supervision: each network learns the other's argmax, on labelled and unlabelled voxels alike.

    Source: Chen et al., "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021, eq. 2 to 4.

    Args:
        supervised: loss of (logits [B,C,*S], label [B,1,*S]).
        cross_weight: weight of the cross terms (1.5 in the paper, for both of its data sets).
        ramp: callable from progress in [0, 1] to a factor in [0, 1] on the cross terms; the paper uses none (``None``).
    """

    def __init__(
        self, supervised: nn.Module, cross_weight: float = 1.5, ramp: Callable[[float], float] | None = None
    ) -> None:
        super().__init__()
        self.supervised = supervised
        self.cross_weight = cross_weight
        self.ramp = ramp

    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        on_labeled, on_unlabeled = forward_jointly(network, labeled, unlabeled)
        label = labeled[Keys.LABEL]
        num_classes = on_labeled.a.logits.shape[1]
        self.observe_labels(label, num_classes)
        losses = supervised_losses(self.supervised, on_labeled, label)
        if on_unlabeled is None:
            return losses

        weight = self.cross_weight * (1.0 if self.ramp is None else self.ramp(progress))
        logits_a = torch.cat([on_labeled.a.logits, on_unlabeled.a.logits]).float()
        logits_b = torch.cat([on_labeled.b.logits, on_unlabeled.b.logits]).float()
        # argmax carries no gradient: each side is a fixed target for the other
        losses["cross_pseudo_a"] = weight * cross_entropy(logits_a, logits_b.argmax(1))
        losses["cross_pseudo_b"] = weight * cross_entropy(logits_b, logits_a.argmax(1))
        pseudo_labels = (on_unlabeled.a.logits + on_unlabeled.b.logits).argmax(1, keepdim=True)
        self.observe_pseudo_labels(pseudo_labels, torch.ones_like(pseudo_labels), num_classes)
        return losses
