# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..running_mean import RunningMean, class_counts
from ..voxelwise import check_classes, check_logits, full_precision

__all__ = ["AdaptiveConfidencePseudoLabeler"]


class AdaptiveConfidencePseudoLabeler(nn.Module):
    r"""
    A teacher's winning class, reliable where its probability reaches a threshold of that class that adapts itself.

    With :math:`\overline{\,\cdot\,}` a moving average over the batches of the mean over their voxels, the threshold of
    class c is

    .. math::
        \text{FreeMatch:}\quad \tau_c = \frac{\overline{t_c}}{\max_k \overline{t_k}} \, \overline{\max_k t_k}, \qquad
        \text{FlexMatch:}\quad \tau_c = \frac{\beta_c}{2 - \beta_c} \, \tau, \quad
        \beta_c = \frac{s_c}{\max(\max_k s_k, 1 - \sum_k s_k)}, \quad
        s_c = \overline{[\arg\max_k t_k = c] \, [\max_k t_k \ge \tau]}

    FreeMatch starts at 1 / C; FlexMatch at 0, as long as most voxels are below :math:`\tau`. A class that is rare gets
    a low threshold in both: where the background fills nearly all voxels, nearly all of the foreground is kept.
    Thresholds move in training mode only, before they are used, and over all ranks when ``torch.distributed`` is
    initialised; every rank must then call the module at every step. Nothing has a gradient.

    Wang et al., "FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning", ICLR 2023,
    https://arxiv.org/abs/2205.07246; Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo
    Labeling", NeurIPS 2021, https://arxiv.org/abs/2110.08263. FlexMatch counts over the latest prediction of every
    item of the data set; the moving average in its place is ours.

    Attributes:
        confidence: :class:`~.RunningMean` of one number, the mean confidence; constant in the FlexMatch form.
        shares: :class:`~.RunningMean` of C numbers, :math:`\overline{t_c}` or :math:`s_c`.

    Example:
        >>> import torch
        >>> labeler = AdaptiveConfidencePseudoLabeler(num_classes=2, momentum=0.5)
        >>> p = torch.tensor([[[[0.9, 0.9, 0.9, 0.4]], [[0.1, 0.1, 0.1, 0.6]]]])
        >>> labels, mask = labeler.from_probabilities(p)
        >>> labels.tolist(), mask.tolist()
        ([[[[0, 0, 0, 1]]]], [[[[True, True, True, True]]]])
        >>> [round(threshold, 3) for threshold in labeler.thresholds.tolist()]
        [0.662, 0.377]
    """

    def __init__(
        self, num_classes: int, momentum: float = 0.999, form: str = "freematch", threshold: float = 0.95
    ) -> None:
        """
        Args:
            num_classes: number of classes C, background included.
            momentum: of the moving averages, in [0, 1].
            form: {``"freematch"``, ``"flexmatch"``}. Defaults to ``"freematch"``.
            threshold: tau of the FlexMatch form, in [0, 1]. FreeMatch has none.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        check_classes(num_classes)
        if form not in ("freematch", "flexmatch"):
            raise ValueError(f"form must be 'freematch' or 'flexmatch', got {form!r}")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must be a probability in [0, 1], got {threshold}")
        free = form == "freematch"
        self.form = form
        self.confidence = RunningMean(torch.full((1,), 1 / num_classes if free else threshold), momentum)
        self.shares = RunningMean(torch.full((num_classes,), 1 / num_classes if free else 0.0), momentum)

    @property
    def thresholds(self) -> torch.Tensor:
        """Threshold of each class, [C]."""
        shares = self.shares.value
        if self.form == "freematch":
            return shares / shares.max() * self.confidence.value
        beta = shares / torch.maximum(shares.max(), 1 - shares.sum())
        return beta / (2 - beta) * self.confidence.value

    @torch.no_grad()
    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            input: logits [B, C, *spatial] of the teacher.

        Returns:
            The pseudo-labels, int64 [B, 1, *spatial], and the reliable voxels, bool [B, 1, *spatial].

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_logits(input, "input", len(self.shares.value))
        return self.from_probabilities(full_precision(input).softmax(1))

    @torch.no_grad()
    def from_probabilities(self, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`forward`, for probabilities [B, C, *spatial] that are already at hand."""
        p = full_precision(p)
        confidence, labels = p.max(1, keepdim=True)
        if self.training:
            self._update(p, confidence, labels)
        return labels, confidence >= self.thresholds.to(confidence.dtype)[labels]

    def _update(self, p: torch.Tensor, confidence: torch.Tensor, labels: torch.Tensor) -> None:
        voxels = confidence.isfinite().sum().expand_as(self.shares.value)
        if self.form == "flexmatch":
            confident = confidence >= self.confidence.value
            self.shares.update(class_counts(labels, confident, len(voxels)), voxels)
            return
        self.shares.update(p.flatten(2).sum((0, 2)), voxels)
        self.confidence.update(confidence.sum().view(1), voxels[:1])
