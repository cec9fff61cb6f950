# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy

from monai.utils import CommonKeys as Keys
from torch import Tensor, nn

from ..losses import (
    CrossConsistencyEnhancementLoss,
    DisagreementRectificationLoss,
    PrototypeContrastiveLoss,
    SigmoidRamp,
)
from ..networks import DualOutput
from .method import Method, forward_jointly

__all__ = ["DualNetworkMethod"]


class DualNetworkMethod(Method):
    """Dual-network semi-supervised segmentation with uncertainty-guided pseudo-labels: the bundle's default.

    ``L = sum_k (L_s^k + alpha L_cr^k) + w(t) [L_CCE + lambda_c sum_k L_con^k]`` over the networks k in {a, b}:
    supervised and rectification terms on the labelled voxels; cross consistency enhancement (KL-weighted cross pseudo
    supervision, entropy-filtered supervision, cosine consistency) and the prototype contrastive term on the unlabelled
    ones.

    Source: Lu et al., "Enhancing Dual Network Based Semi-Supervised Medical Image Segmentation with Uncertainty-Guided
    Pseudo-Labeling", Knowledge-Based Systems 2025, arXiv 2509.13084. A part set to None is left out (ablations).

    Args:
        supervised: L_s, loss of (logits [B,C,*S], label [B,1,*S]).
        rectification: L_cr, on the labelled voxels where the networks disagree.
        rectification_weight: alpha.
        consistency: L_CCE, on the unlabelled voxels.
        contrastive: L_con for network a; network b gets an independent copy with prototypes of its own.
        contrastive_weight: lambda_c.
        ramp: w(t), callable from progress in [0, 1] to a factor in [0, 1] on all unlabelled terms.
        decay_drop_fraction: let the fraction of voxels that the entropy filter drops shrink linearly to 0 over
            the training
            (Wang et al., U2PL, CVPR 2022).

    Raises:
        ValueError: when ``contrastive`` is given without ``consistency``, whose entropy filter it needs.
    """

    def __init__(
        self,
        supervised: nn.Module,
        rectification: DisagreementRectificationLoss | None = None,
        rectification_weight: float = 0.5,
        consistency: CrossConsistencyEnhancementLoss | None = None,
        contrastive: PrototypeContrastiveLoss | None = None,
        contrastive_weight: float = 0.1,
        ramp: Callable[[float], float] | None = None,
        decay_drop_fraction: bool = False,
    ) -> None:
        super().__init__()
        if contrastive is not None and consistency is None:
            raise ValueError(
                "contrastive needs consistency: its entropy filter tells reliable voxels from unreliable ones"
            )
        self.supervised = supervised
        self.rectification = rectification
        self.rectification_weight = rectification_weight
        self.consistency = consistency
        self.contrastive_a = contrastive
        self.contrastive_b = deepcopy(contrastive)
        self.contrastive_weight = contrastive_weight
        self.ramp = SigmoidRamp() if ramp is None else ramp
        self.decay_drop_fraction = decay_drop_fraction
        self._drop_fraction = 0.0 if consistency is None else consistency.labeler.drop_fraction

    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        on_labeled, on_unlabeled = forward_jointly(network, labeled, unlabeled)
        losses = self._labeled_losses(on_labeled, labeled[Keys.LABEL])
        if on_unlabeled is not None and self.consistency is not None:
            weight = self.ramp(progress)
            for name, loss in self._unlabeled_losses(on_unlabeled, progress).items():
                losses[name] = weight * loss
        return losses

    def _labeled_losses(self, output: DualOutput, label: Tensor) -> dict[str, Tensor]:
        logits_a, logits_b = output.a.logits, output.b.logits
        self.observe_labels(label, logits_a.shape[1])
        losses = {"supervised_a": self.supervised(logits_a, label), "supervised_b": self.supervised(logits_b, label)}
        if self.rectification is not None:
            losses["rectification_a"] = self.rectification_weight * self.rectification(logits_a, logits_b, label)
            losses["rectification_b"] = self.rectification_weight * self.rectification(logits_b, logits_a, label)
        return losses

    def _unlabeled_losses(self, output: DualOutput, progress: float) -> dict[str, Tensor]:
        logits_a, logits_b = output.a.logits, output.b.logits
        if self.decay_drop_fraction:
            self.consistency.labeler.drop_fraction = self._drop_fraction * (1 - progress)
        labels, reliable = self.consistency.labeler(logits_a, logits_b)
        self.observe_pseudo_labels(labels, reliable, logits_a.shape[1])
        losses = self.consistency.terms(logits_a, logits_b, labels, reliable)
        if self.contrastive_a is not None:
            weight = self.contrastive_weight
            losses["contrastive_a"] = weight * self.contrastive_a(output.a.features, logits_a, labels, reliable)
            losses["contrastive_b"] = weight * self.contrastive_b(output.b.features, logits_b, labels, reliable)
        return losses
