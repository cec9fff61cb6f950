# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ..losses import DisagreementRectificationLoss
from ..networks import DualOutput
from .method import Method, forward_jointly, supervised_losses

__all__ = ["AsReleasedMethod"]


class AsReleasedMethod(Method):
    """What the code released with the paper optimises, for comparison; :class:`DualNetworkMethod` is what the paper
    states.

    ``sum_k (L_s^k + alpha L_cr^k) + mean[exp(-d) CE(z_a, argmax p_b)] + mean[d] + mean[1 - cos(p_a, p_b)]`` with
    ``d = KL(p_b || p_a)``, over labelled and unlabelled voxels alike, at full weight from the first step, with
    gradients through ``d`` wherever it stands. The released entropy filter and contrastive term carry no gradient and
    are left out.

    Source: reading of the code of Lu et al., arXiv 2509.13084.

    Args:
        supervised: L_s, loss of (logits [B,C,*S], label [B,1,*S]).
        rectification: L_cr; the released form is ``mode="foreground_xor"``.
        rectification_weight: alpha.
    """

    def __init__(
        self,
        supervised: nn.Module,
        rectification: DisagreementRectificationLoss,
        rectification_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.supervised = supervised
        self.rectification = rectification
        self.rectification_weight = rectification_weight

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
        if on_unlabeled is not None:
            a, b = torch.cat([a, on_unlabeled.a.logits]), torch.cat([b, on_unlabeled.b.logits])
            pseudo_labels = on_unlabeled.b.logits.argmax(1, keepdim=True)
            self.observe_pseudo_labels(pseudo_labels, torch.ones_like(pseudo_labels), a.shape[1])
        return {**losses, **_consistency(a, b)}


def _consistency(logits_a: Tensor, logits_b: Tensor) -> dict[str, Tensor]:
    dtype = torch.promote_types(logits_a.dtype, torch.float32)
    log_a, log_b = (logits.to(dtype).log_softmax(1) for logits in (logits_a, logits_b))
    divergence = (log_b.exp() * (log_b - log_a)).sum(1, keepdim=True)
    cross_entropy = -log_a.gather(1, logits_b.argmax(1, keepdim=True))
    return {
        "cross_pseudo": (torch.exp(-divergence) * cross_entropy).mean(),
        "divergence": divergence.mean(),
        "cosine": 1 - cosine_similarity(log_a.exp(), log_b.exp(), dim=1).mean(),
    }
