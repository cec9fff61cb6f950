# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize

from ....losses import ERDALoss, PrototypePseudoLabeler, partial_cross_entropy, reduce_voxels
from ...step import Pair, Prediction, PseudoLabels, Step
from ..term import Term
from .heads import Heads, shared_gradient

__all__ = ["PrototypeAlignment", "QueryAlignment"]


class PrototypeAlignment(Term):
    """Pseudo-labels from class prototypes, and predictions, learn from each other on every unlabelled voxel.

    :class:`~...losses.ERDALoss` between each network and its own soft pseudo-labels, which
    :class:`~...losses.PrototypePseudoLabeler` makes of projected features and of prototypes of the labelled voxels.
    Tang et al., ERDA, NeurIPS 2023, arXiv 2305.15832.

    Args:
        num_classes: C.
        feature_channels: width of both networks' features.
        channels: width of the projection.
        momentum, temperature: of the labeler.
        entropy_weight: lambda of the loss.
        weight: factor on the term (0.1 in the paper).
    """

    reads = frozenset({"labeled", "unlabeled"})
    needs_unlabeled = True

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        channels: int = 32,
        momentum: float = 0.999,
        temperature: float = 0.1,
        entropy_weight: float = 1.0,
        weight: float = 0.1,
    ) -> None:
        super().__init__(weight)
        self.heads = Heads(feature_channels, channels)
        self.labelers = nn.ModuleDict(
            {name: PrototypePseudoLabeler(num_classes, channels, momentum, temperature) for name in ("a", "b")}
        )
        self.loss = ERDALoss(entropy_weight, weight=1.0)

    def forward(self, step: Step) -> Pair[Tensor]:
        pseudo = Pair(*(self._pseudo(name, step) for name in "ab"))
        labels = [one.detach().argmax(1, keepdim=True) for one in pseudo]
        step.observe(Pair(*(PseudoLabels(own, torch.ones_like(own, dtype=torch.bool)) for own in labels)))
        pairs = zip(step.on_unlabeled, pseudo, strict=True)
        return Pair(*(self.loss(student.logits, own) for student, own in pairs))

    def _pseudo(self, name: str, step: Step) -> Tensor:
        """Logits [U,C,*S] of a network's pseudo-labels."""
        labeled, unlabeled = getattr(step.on_labeled, name), getattr(step.on_unlabeled, name)
        labeler = cast(PrototypePseudoLabeler, self.labelers[name])
        if self.training:
            labeler.update(self.heads.project(name, labeled.features).detach(), step.label, step.certain)
        return labeler.logits(self.heads.project(name, unlabeled.features), unlabeled.logits.shape[2:])


class QueryAlignment(Term):
    """As :class:`PrototypeAlignment`, with a learnt query of each class in place of its prototype.

    A query's logit at a voxel is its cosine with the projected features over a temperature. The queries, and the
    projection, learn the labelled voxels by cross entropy. Tang et al., "Towards Modality-agnostic Label-efficient
    Segmentation with Entropy-Regularized Distribution Alignment", arXiv 2408.16520; **a reconstruction** from its
    abstract, which says that the pseudo-labels are generated in a way that serves 2D and 3D alike.

    Args:
        num_classes: C.
        feature_channels: width of both networks' features.
        channels: width of the projection and of the queries.
        temperature: of the pseudo-labels, above 0.
        entropy_weight: lambda of the loss.
        weight: factor on the alignment (0.1 in the paper).
        query_weight: factor on the cross entropy of the queries, as a multiple of the alignment's.
    """

    reads = frozenset({"labeled", "unlabeled"})
    needs_unlabeled = True

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        channels: int = 32,
        temperature: float = 0.1,
        entropy_weight: float = 1.0,
        weight: float = 0.1,
        query_weight: float = 10.0,
    ) -> None:
        super().__init__(weight)
        self.heads = Heads(feature_channels, channels)
        self.queries = nn.ParameterDict({name: torch.randn(num_classes, channels) for name in ("a", "b")})
        shared_gradient(self.queries)
        self.temperature = temperature
        self.query_weight = query_weight
        self.loss = ERDALoss(entropy_weight, weight=1.0)

    def forward(self, step: Step) -> dict[str, Tensor]:
        losses, labels = {}, []
        for name, student in step.on_unlabeled._asdict().items():
            pseudo = self._logits(name, student)
            labels.append(pseudo.detach().argmax(1, keepdim=True))
            losses[f"alignment_{name}"] = self.loss(student.logits, pseudo)
            known = self._logits(name, getattr(step.on_labeled, name))
            losses[f"queries_{name}"] = self.query_weight * step.against_labels(_cross_entropy, known)
        step.observe(Pair(*(PseudoLabels(own, torch.ones_like(own, dtype=torch.bool)) for own in labels)))
        return losses

    def _logits(self, name: str, prediction: Prediction) -> Tensor:
        features = normalize(self.heads.project(name, prediction.features).float(), dim=1)
        queries = normalize(self.queries[name], dim=1)
        logits = torch.einsum("ce,ne...->nc...", queries, features) / self.temperature
        size = prediction.logits.shape[2:]
        mode = "trilinear" if len(size) == 3 else "bilinear"
        return logits if logits.shape[2:] == size else interpolate(logits, size, mode=mode)


def _cross_entropy(logits: Tensor, label: Tensor, drawn: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
    label = label.long()
    if drawn is None:
        return cross_entropy(logits, label.squeeze(1))
    return reduce_voxels(partial_cross_entropy(logits.log_softmax(1), label, classes), drawn, "mean")
