# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...step import Pair, PseudoLabels, Step
from ..term import Term

__all__ = ["ReleasedConsistency"]


class ReleasedConsistency(Term):
    """What the code released with the paper optimises beside the labels, for comparison.

    ``mean[exp(-d) CE(z_a, argmax p_b)] + mean[d] + mean[1 - cos(p_a, p_b)]`` with ``d = KL(p_b || p_a)``, over labelled
    and unlabelled voxels alike, at full weight from the first step, with gradients through ``d`` wherever it stands.
    The released entropy filter and contrastive term carry no gradient and are left out.

    Source: reading of the code of Lu et al., arXiv 2509.13084.
    """

    reads = frozenset({"labeled", "unlabeled"})

    def forward(self, step: Step) -> dict[str, Tensor]:
        a, b = (one.logits for one in step.on_labeled)
        if step.unlabeled is not None:
            on_unlabeled = step.on_unlabeled
            a, b = torch.cat([a, on_unlabeled.a.logits]), torch.cat([b, on_unlabeled.b.logits])
            labels = on_unlabeled.b.logits.argmax(1, keepdim=True)
            both = PseudoLabels(labels, torch.ones_like(labels, dtype=torch.bool))
            step.observe(Pair(both, both))
        dtype = torch.promote_types(a.dtype, torch.float32)
        log_a, log_b = (logits.to(dtype).log_softmax(1) for logits in (a, b))
        divergence = (log_b.exp() * (log_b - log_a)).sum(1, keepdim=True)
        cross_entropy = -log_a.gather(1, b.argmax(1, keepdim=True))
        return {
            "cross_pseudo": (torch.exp(-divergence) * cross_entropy).mean(),
            "divergence": divergence.mean(),
            "cosine": 1 - cosine_similarity(log_a.exp(), log_b.exp(), dim=1).mean(),
        }
