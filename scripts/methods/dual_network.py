# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn

from ..losses import (
    CrossConsistencyEnhancementLoss,
    DisagreementRectificationLoss,
    PrototypeContrastiveLoss,
    SigmoidRamp,
)
from ..networks import DualOutput
from .copy_paste import CopyPaste, CopyPasteLoss, MixedBatch
from .method import WEAK_VIEW, Method, forward_jointly, supervised_losses

__all__ = ["DualNetworkMethod"]

CONSISTENCY_TERMS = frozenset({"cross_pseudo", "entropy_filtered", "cosine"})


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
        decay_drop_fraction: let the fraction of voxels that the entropy filter drops shrink linearly to 0 over the
            training (Wang et al., U2PL, CVPR 2022).
        without: terms of the consistency to leave out, for ablations: any of ``cross_pseudo``, ``entropy_filtered``,
            ``cosine``.
        copy_paste: not in the paper: a further term, on images mixed from a labelled and an unlabelled one (Bai et
            al., CVPR 2023, arXiv 2305.00673), pseudo-labelled by both teachers together. None: without.
        copy_paste_loss: loss of (logits, :class:`MixedBatch`).
        copy_paste_weight: its weight, of each network.
        teacher: moving average of the dual network; it runs without dropout, and sees the weak view where there is one
            (Sohn et al., FixMatch, NeurIPS 2020: what was seen well teaches what is seen badly).
        teacher_confidence: pseudo-labels count where the teachers' mean probability is at least this.

    Raises:
        ValueError: when ``contrastive`` is given without ``consistency``, whose entropy filter it needs, or
            ``copy_paste`` without ``teacher``, or ``without`` names an unknown term.
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
        without: Sequence[str] = (),
        copy_paste: CopyPaste | None = None,
        copy_paste_loss: CopyPasteLoss | None = None,
        copy_paste_weight: float = 1.0,
        teacher: nn.Module | None = None,
        teacher_confidence: float = 0.0,
    ) -> None:
        super().__init__()
        if contrastive is not None and consistency is None:
            raise ValueError(
                "contrastive needs consistency: its entropy filter tells reliable voxels from unreliable ones"
            )
        if unknown := set(without) - CONSISTENCY_TERMS:
            raise ValueError(f"without names {sorted(unknown)}, but the terms are {sorted(CONSISTENCY_TERMS)}.")
        if copy_paste is not None and teacher is None:
            raise ValueError("copy_paste needs a teacher for its pseudo-labels: give it the moving average's module.")
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
        self.without = frozenset(without)
        self.copy_paste = copy_paste
        self.copy_paste_loss = CopyPasteLoss() if copy_paste_loss is None else copy_paste_loss
        self.copy_paste_weight = copy_paste_weight
        self.teacher = teacher
        self.teacher_confidence = teacher_confidence

    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        mixed = None if unlabeled is None or self.copy_paste is None else self._mix(labeled, unlabeled)
        images_of_mixed = None if mixed is None else {Keys.IMAGE: mixed.image}
        compared = None if self.consistency is None else unlabeled
        on_labeled, on_unlabeled, on_mixed = forward_jointly(network, labeled, compared, images_of_mixed)
        losses = self._labeled_losses(on_labeled, labeled[Keys.LABEL])
        unlabeled_losses = {} if on_unlabeled is None else self._unlabeled_losses(on_unlabeled, progress)
        if mixed is not None:
            for name, output in zip(("a", "b"), on_mixed, strict=True):
                loss = self.copy_paste_loss(output.logits, mixed)
                unlabeled_losses[f"copy_paste_{name}"] = self.copy_paste_weight * loss
        weight = self.ramp(progress)
        return losses | {name: weight * loss for name, loss in unlabeled_losses.items()}

    def _labeled_losses(self, output: DualOutput, label: Tensor) -> dict[str, Tensor]:
        logits_a, logits_b = output.a.logits, output.b.logits
        self.observe_labels(label, logits_a.shape[1])
        losses = supervised_losses(self.supervised, output, label)
        if self.rectification is not None:
            losses["rectification_a"] = self.rectification_weight * self.rectification(logits_a, logits_b, label)
            losses["rectification_b"] = self.rectification_weight * self.rectification(logits_b, logits_a, label)
        return losses

    def _unlabeled_losses(self, output: DualOutput, progress: float) -> dict[str, Tensor]:
        logits_a, logits_b = output.a.logits, output.b.logits
        if self.decay_drop_fraction:
            self.consistency.labeler.drop_fraction = self._drop_fraction * (1 - progress)
        labels, reliable, terms = self.consistency.labels_and_terms(logits_a, logits_b)
        self.observe_pseudo_labels(labels, reliable, logits_a.shape[1])
        losses = {name: loss for name, loss in terms.items() if name not in self.without}
        if self.contrastive_a is not None:
            weight = self.contrastive_weight
            losses["contrastive_a"] = weight * self.contrastive_a(output.a.features, logits_a, labels, reliable)
            losses["contrastive_b"] = weight * self.contrastive_b(output.b.features, logits_b, labels, reliable)
        return losses

    @torch.no_grad()
    def _mix(self, labeled: Mapping[str, Tensor], unlabeled: Mapping[str, Tensor]) -> MixedBatch:
        self.teacher.eval()  # no dropout, and running statistics that only the average of the student's moves
        taught = self.teacher(unlabeled.get(WEAK_VIEW, unlabeled[Keys.IMAGE]))
        probabilities = (taught.a.logits.float().softmax(1) + taught.b.logits.float().softmax(1)) / 2
        confidence, pseudo_labels = probabilities.max(1, keepdim=True)
        reliable = confidence >= self.teacher_confidence
        self.observe_pseudo_labels(pseudo_labels, reliable, probabilities.shape[1])
        image, label = labeled[Keys.IMAGE], labeled[Keys.LABEL]
        return self.copy_paste(image, label, unlabeled[Keys.IMAGE], pseudo_labels, reliable)
