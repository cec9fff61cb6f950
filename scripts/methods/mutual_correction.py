# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from monai.losses import DiceLoss
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn

from ..losses import DisagreementRectificationLoss, SigmoidRamp
from ..networks import DualOutput
from .method import Method, forward_jointly, supervised_losses

__all__ = ["MutualCorrectionMethod"]


class MutualCorrectionMethod(Method):
    """MCF: the network that does better on this step's labels teaches the other on the unlabelled images.

    ``L = sum_k (L_s^k + alpha L_cr^k) + weight * w(t) * mean ||p_loser - sharpen(p_winner)||^2`` where the winner has
    the smaller Dice loss on the labelled voxels, and ``sharpen(p) ~ p^(1/T)``.

    Source: Wang et al., "MCF: Mutual Correction Framework for Semi-Supervised Medical Image Segmentation", CVPR 2023,
    with the settings of its code for the left atrium.

    Args:
        supervised: loss of (logits [B,C,*S], label [B,1,*S]).
        rectification: L_cr, "contrastive difference review"; the source counts every voxel that only one network calls
            foreground (``mode="foreground_xor", threshold=0``).
        rectification_weight: alpha.
        consistency_weight: weight of the unlabelled term.
        temperature: T, of the winner's pseudo-labels.
        ramp: w(t), callable from progress in [0, 1]; the default ramps up over the whole training, as the source does.
    """

    def __init__(
        self,
        supervised: nn.Module,
        rectification: DisagreementRectificationLoss,
        rectification_weight: float = 0.5,
        consistency_weight: float = 0.1,
        temperature: float = 0.1,
        ramp: Callable[[float], float] | None = None,
    ) -> None:
        super().__init__()
        self.supervised = supervised
        self.rectification = rectification
        self.rectification_weight = rectification_weight
        self.consistency_weight = consistency_weight
        self.temperature = temperature
        self.ramp = SigmoidRamp(length=1.0) if ramp is None else ramp
        self.score = DiceLoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        on_labeled, on_unlabeled = forward_jointly(network, labeled, unlabeled)
        label = labeled[Keys.LABEL]
        a, b = on_labeled.a.logits, on_labeled.b.logits
        self.observe_labels(label, a.shape[1])
        losses = {
            **supervised_losses(self.supervised, on_labeled, label),
            "rectification_a": self.rectification_weight * self.rectification(a, b, label),
            "rectification_b": self.rectification_weight * self.rectification(b, a, label),
        }
        if on_unlabeled is None:
            return losses
        weight = self.consistency_weight * self.ramp(progress)
        # 1 where a wins, as a number: no waiting for the device, and the loser's term alone has a gradient
        a_wins = (self.score(a.detach().float(), label) < self.score(b.detach().float(), label)).float()
        a, b = on_unlabeled.a.logits.float(), on_unlabeled.b.logits.float()
        losses["correction_a"] = weight * (1 - a_wins) * self._distance(a, b)
        losses["correction_b"] = weight * a_wins * self._distance(b, a)
        pseudo_labels = torch.where(a_wins > 0, a, b).argmax(1, keepdim=True)
        self.observe_pseudo_labels(pseudo_labels, torch.ones_like(pseudo_labels), a.shape[1])
        return losses

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = (teacher.detach() / self.temperature).softmax(1)
        return (student.softmax(1) - target).square().mean()
