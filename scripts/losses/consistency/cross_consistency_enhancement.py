# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..labelers.entropy_filtered_pseudo_labeler import EntropyFilteredPseudoLabeler
from ..voxelwise import Prediction, check_logits, check_matching, checked_mask, one_channel, predict, reduce_voxels
from .cosine_consistency import cosine_distance
from .uncertainty_weighted_cross_pseudo import UncertaintyWeightedCrossPseudoLoss, uncertainty_weighted_cross_pseudo

__all__ = ["CrossConsistencyEnhancementLoss"]


class CrossConsistencyEnhancementLoss(nn.Module):
    r"""
    Everything two networks teach each other on unlabelled voxels: the sum of three terms, each usable alone.

    .. math::
        L = \tfrac12 \big(L_{unc}^{a \leftarrow b} + L_{unc}^{b \leftarrow a}\big)
            + L_{ent}^a + L_{ent}^b + \beta \, \mathrm{mean}\big(1 - \cos(p_a, p_b)\big)

    with :math:`L_{unc}` of :class:`~.UncertaintyWeightedCrossPseudoLoss`, :math:`L_{ent}` of
    :class:`~.EntropyFilteredPseudoLoss` on the labels of :class:`~.EntropyFilteredPseudoLabeler`, and
    :class:`~.CosineConsistencyLoss`. The networks' probabilities are computed once for all of them.

    Lu et al., "Enhancing Dual Network Based Semi-Supervised Medical Image Segmentation with Uncertainty-Guided
    Pseudo-Labeling", Knowledge-Based Systems 2025, https://arxiv.org/abs/2509.13084 (term 6 of the method).

    Attributes:
        labeler: the :class:`~.EntropyFilteredPseudoLabeler` that makes the labels and the mask when they are not given.

    Example:
        >>> import torch
        >>> loss = CrossConsistencyEnhancementLoss(drop_fraction=0.2)
        >>> a = torch.zeros(2, 3, 4, 4, 4, requires_grad=True)
        >>> b = torch.zeros(2, 3, 4, 4, 4, requires_grad=True)
        >>> {name: round(value.item(), 3) for name, value in loss.terms(a, b).items()}
        {'cross_pseudo': 1.099, 'entropy_filtered': 2.197, 'cosine': 0.0}
        >>> loss(a, b).backward()
    """

    def __init__(
        self,
        temperature: float = 0.5,
        gamma: float = 1.0,
        detach_weight: bool = True,
        hard: bool = False,
        drop_fraction: float = 0.2,
        combine: str = "either",
        per_class: bool = True,
        cosine_weight: float = 0.1,
        direction: str = "both",
    ) -> None:
        """
        Args:
            temperature: as in :class:`~.UncertaintyWeightedCrossPseudoLoss`.
            gamma: as in :class:`~.UncertaintyWeightedCrossPseudoLoss`.
            detach_weight: as in :class:`~.UncertaintyWeightedCrossPseudoLoss`.
            hard: as in :class:`~.UncertaintyWeightedCrossPseudoLoss`.
            drop_fraction: as in :class:`~.EntropyFilteredPseudoLabeler`.
            combine: as in :class:`~.EntropyFilteredPseudoLabeler`.
            per_class: as in :class:`~.EntropyFilteredPseudoLabeler`.
            cosine_weight: beta, the weight of the cosine term, at least 0.
            direction: {``"both"``, ``"a_from_b"``, ``"b_from_a"``}
                Which network learns: both from each other, only the first (``input``), or only the second (``other``).
                With one direction no term trains the teacher, and the sums over both networks have one summand.

        Raises:
            ValueError: When ``direction`` is none of the options, ``cosine_weight`` is below 0, or an option of a part
                is out of its range.
        """
        super().__init__()
        if direction not in ("both", "a_from_b", "b_from_a"):
            raise ValueError(f"direction must be 'both', 'a_from_b' or 'b_from_a', got {direction!r}")
        if not cosine_weight >= 0:
            raise ValueError(f"cosine_weight must be at least 0, got {cosine_weight}")
        self.cross_pseudo = UncertaintyWeightedCrossPseudoLoss(temperature, gamma, detach_weight, hard)
        self.labeler = EntropyFilteredPseudoLabeler(drop_fraction, combine, per_class)
        self.cosine_weight = float(cosine_weight)
        self.direction = direction

    def forward(
        self,
        input: torch.Tensor,
        other: torch.Tensor,
        labels: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sum of :meth:`terms`, with the same arguments."""
        terms = self.terms(input, other, labels, mask)
        return terms["cross_pseudo"] + terms["entropy_filtered"] + terms["cosine"]

    def terms(
        self,
        input: torch.Tensor,
        other: torch.Tensor,
        labels: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """
        The weighted terms ``cross_pseudo``, ``entropy_filtered`` and ``cosine``, each a scalar.

        Args:
            input: logits [B, C, *spatial] of network a.
            other: logits [B, C, *spatial] of network b.
            labels: pseudo-labels, class maps [B, 1, *spatial]; with ``mask`` they replace those of the labeller.
            mask: reliable voxels, bool [B, 1, *spatial]. It restricts the entropy-filtered term only.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it, or only one of ``labels`` and ``mask`` is given.
        """
        if (labels is None) != (mask is None):
            raise ValueError("labels and mask are given together or not at all, got only one of them")
        a, b = self._predictions(input, other)
        if labels is None:
            labels, mask = self.labeler.from_probabilities(a.p, a.entropy, b.p, b.entropy)
        else:
            labels, mask = one_channel(labels, input, "labels"), checked_mask(mask, input)
        return self._terms(a, b, labels, mask)

    def labels_and_terms(
        self, input: torch.Tensor, other: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """
        The labeller's output together with the terms, for a training step that uses the labels in other terms too.

        Args:
            input: logits [B, C, *spatial] of network a.
            other: logits [B, C, *spatial] of network b.

        Returns:
            The pseudo-labels, int64 [B, 1, *spatial], the reliable voxels, bool [B, 1, *spatial], and :meth:`terms`.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        a, b = self._predictions(input, other)
        labels, mask = self.labeler.from_probabilities(a.p, a.entropy, b.p, b.entropy)
        return labels, mask, self._terms(a, b, labels, mask)

    def _predictions(self, input: torch.Tensor, other: torch.Tensor) -> tuple[Prediction, Prediction]:
        """Of both networks; the one that does not learn is constant."""
        check_logits(input, "input")
        check_matching(input, other, "input", "other")
        if self.direction == "a_from_b":
            other = other.detach()
        if self.direction == "b_from_a":
            input = input.detach()
        return predict(input), predict(other)

    def _terms(
        self, a: Prediction, b: Prediction, labels: torch.Tensor, mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        cross_pseudo, entropy_filtered = [], []
        if self.direction != "b_from_a":
            cross_pseudo.append(self._cross_pseudo(a, b))
            entropy_filtered.append(-reduce_voxels(a.log_p.gather(1, labels), mask, "mean"))
        if self.direction != "a_from_b":
            cross_pseudo.append(self._cross_pseudo(b, a))
            entropy_filtered.append(-reduce_voxels(b.log_p.gather(1, labels), mask, "mean"))
        cosine = reduce_voxels(cosine_distance(a.p, b.p), None, "mean")
        return {
            "cross_pseudo": torch.stack(cross_pseudo).mean(),
            "entropy_filtered": torch.stack(entropy_filtered).sum(),
            "cosine": self.cosine_weight * cosine,
        }

    def _cross_pseudo(self, student: Prediction, teacher: Prediction) -> torch.Tensor:
        part = self.cross_pseudo
        loss = uncertainty_weighted_cross_pseudo(
            student.log_p,
            teacher.log_p,
            teacher.p,
            teacher.entropy,
            part.temperature,
            part.gamma,
            part.detach_weight,
            part.hard,
        )
        return reduce_voxels(loss, None, "mean")
