# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..voxelwise import check_logits, full_precision

__all__ = ["ConfidencePseudoLabeler"]


class ConfidencePseudoLabeler(nn.Module):
    r"""
    A teacher's winning class, reliable where its probability reaches a threshold.

    .. math::
        \hat y = \arg\max_c t_c, \qquad M = [\max_c t_c \ge \tau], \qquad
        \tau = \tau_0 + (\tau_1 - \tau_0) \min(\text{progress}, 1)

    With ``rise_to`` (:math:`\tau_1`) the threshold rises with the share of the training that is done, otherwise it
    stays :math:`\tau_0`. Nothing has a gradient.

    Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020,
    https://arxiv.org/abs/2001.07685. A threshold that rises, from 0.75 to 1, is that of Zhao et al., "CrossMatch:
    Enhance Semi-Supervised Medical Image Segmentation with Perturbation Strategies and Knowledge Distillation", 2024,
    https://arxiv.org/abs/2405.00354; that it rises linearly is ours.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[[4.0, 1.0]], [[0.0, 0.0]]]])  # probabilities 0.98 and 0.73 of class 0
        >>> labels, mask = ConfidencePseudoLabeler(threshold=0.95)(teacher)
        >>> labels.tolist(), mask.tolist()
        ([[[[0, 0]]]], [[[[True, False]]]])
        >>> labeler = ConfidencePseudoLabeler(threshold=0.7, rise_to=1.0)
        >>> [labeler(teacher, progress)[1].sum().item() for progress in (0.0, 0.5, 1.0)]
        [2, 1, 0]
    """

    def __init__(self, threshold: float = 0.95, rise_to: float | None = None) -> None:
        """
        Args:
            threshold: probability from which a pseudo-label is reliable, in [0, 1].
            rise_to: threshold at the end of the training, in [``threshold``, 1]. None keeps ``threshold``.

        Raises:
            ValueError: When ``threshold`` is not in [0, 1], or ``rise_to`` not in [``threshold``, 1].
        """
        super().__init__()
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must be a probability in [0, 1], got {threshold}")
        if rise_to is not None and not threshold <= rise_to <= 1.0:
            raise ValueError(f"rise_to must be a probability in [threshold={threshold}, 1], got {rise_to}")
        self.threshold = float(threshold)
        self.rise_to = self.threshold if rise_to is None else float(rise_to)

    def forward(self, input: torch.Tensor, progress: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            input: logits [B, C, *spatial] of the teacher.
            progress: share of the training that is done, at least 0.

        Returns:
            The pseudo-labels, int64 [B, 1, *spatial], and the reliable voxels, bool [B, 1, *spatial].

        Raises:
            ValueError: When a shape or dtype does not fit, naming it, or ``progress`` is negative.
        """
        check_logits(input, "input")
        return self.from_probabilities(full_precision(input.detach()).softmax(1), progress)

    def from_probabilities(self, p: torch.Tensor, progress: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`forward`, for probabilities [B, C, *spatial] that are already at hand."""
        if not progress >= 0:
            raise ValueError(f"progress must be a share of the training, at least 0, got {progress}")
        threshold = self.threshold + (self.rise_to - self.threshold) * min(progress, 1.0)
        confidence, labels = full_precision(p.detach()).max(1, keepdim=True)
        return labels, confidence >= threshold
