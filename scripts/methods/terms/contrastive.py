# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...losses import ClassFeatures, PrototypeContrastiveLoss
from ..step import Pair, Prediction, PseudoLabels, Step
from .term import Term

__all__ = ["Contrastive"]

SOURCES = ("student", "teacher", "labels")


class Contrastive(Term):
    """Features of unreliable voxels are drawn to their class's prototype (term 7).

    :class:`~...losses.PrototypeContrastiveLoss`, one for each network, with prototypes as wide as its features. Lu et
    al., arXiv 2509.13084. Prototypes of the average's features and of labelled voxels, too, are ours: they protect from
    prototypes of wrong pseudo-labels, and from ones that jump with the network.

    Args:
        num_classes: C.
        weight: lambda_c.
        prototypes_from: of which features the prototypes are means, any of {``"student"``, ``"teacher"``,
            ``"labels"``}: the network's and its own moving average's of reliable unlabelled voxels, and the network's
            of labelled voxels. By pseudo-labels that have weights, voxels count as much.
        options: further arguments of the loss, such as ``temperature``.

    Raises:
        ValueError: when ``prototypes_from`` is empty or names something else, or the loss refuses its options.
    """

    needs_unlabeled = True
    needs_labeler = True
    weighs = True

    def __init__(
        self, num_classes: int, weight: float = 0.1, prototypes_from: Sequence[str] = ("student",), **options: Any
    ) -> None:
        super().__init__(weight)
        if not prototypes_from or not set(prototypes_from) <= set(SOURCES):
            raise ValueError(f"prototypes_from must name some of {', '.join(SOURCES)}, got {list(prototypes_from)}.")
        self.num_classes = num_classes
        self.prototypes_from = frozenset(prototypes_from)
        self.reads = frozenset({"unlabeled"} | ({"labeled"} if "labels" in self.prototypes_from else set()))
        self.options = options
        self._make(feature_channels=1)  # options that make no sense are refused now
        self.losses = nn.ModuleDict()  # of a and b, made when the width of their features is first seen

    def forward(self, step: Step) -> Pair[Tensor]:
        students, labels = step.on_unlabeled, step.pseudo_labels
        return Pair(self._loss("a", students.a, labels.a, step), self._loss("b", students.b, labels.b, step))

    def _loss(self, network: str, student: Prediction, own: PseudoLabels, step: Step) -> Tensor:
        if network not in self.losses:
            loss = self._make(student.features.shape[1]).to(student.features.device)
            self.losses[network] = loss.train(self.training)
        sources = self._sources(network, student, own, step)
        return self.losses[network](student.features, student.logits, own.labels, own.mask, sources)

    def _sources(self, network: str, student: Prediction, own: PseudoLabels, step: Step) -> list[ClassFeatures] | None:
        """What the network's prototypes are means of; None: what the loss takes by itself."""
        if self.prototypes_from == {"student"} and own.weight is None:
            return None
        found = []
        if "student" in self.prototypes_from:
            found.append(ClassFeatures(student.features, *own))
        if "teacher" in self.prototypes_from:
            found.append(ClassFeatures(self._average(network, step).features, *own))
        if "labels" in self.prototypes_from:
            known = torch.ones_like(step.label, dtype=torch.bool) if step.certain is None else step.certain
            found.append(ClassFeatures(getattr(step.on_labeled, network).features, step.label, known))
        return found

    @staticmethod
    def _average(network: str, step: Step) -> Prediction:
        """What the network's own average says, whichever network it teaches: another's features are no like ones."""
        for teacher in step.teachers:
            if teacher.network == network:
                return teacher
        raise ValueError(
            f"Prototypes from the teacher need the moving average of network {network} among the method's teachers: "
            "use AverageTeacher, or leave teacher out of prototypes_from."
        )

    def _make(self, feature_channels: int) -> PrototypeContrastiveLoss:
        return PrototypeContrastiveLoss(self.num_classes, feature_channels, **self.options)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        for network in ("a", "b"):
            prototypes = state_dict.get(f"{prefix}losses.{network}.bank.prototypes")
            if prototypes is not None and network not in self.losses:
                self.losses[network] = self._make(prototypes.shape[1]).to(prototypes.device).train(self.training)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
