# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from .class_memory_bank import ClassMemoryBank
from .feature_maps import at_feature_resolution, check_features, draw_per_class, take, unit
from .voxelwise import check_logits, checked_mask, full_precision

__all__ = ["GuidedContrastiveLoss"]


class GuidedContrastiveLoss(nn.Module):
    r"""
    InfoNCE between two views, guided by pseudo-labels: no negative of the anchor's class, no doubtful positive.

    For unit features :math:`f_i` of the trained view, :math:`g_i` of the other view with pseudo-label :math:`c_i` and
    confidence :math:`s_i`, and negatives :math:`g_n` drawn from a memory of the classes other than :math:`c_i`:

    .. math::
        L = \frac{\sum_i [s_i \ge \theta] \, \ell_i}{\max(\sum_i [s_i \ge \theta], 1)}, \qquad
        \ell_i = -\log \frac{\exp(f_i \cdot g_i / \tau)}{\exp(f_i \cdot g_i / \tau) + \sum_n \exp(f_i \cdot g_n / \tau)}

    Anchors are drawn in equal number from the classes. The positives and negatives are constants, so only ``input`` is
    trained. In training mode the positives that were counted then enter the memory. While no other class is in the
    memory, an anchor counts zero.

    Jiang et al., "Guided Point Contrastive Learning for Semi-supervised Point Cloud Semantic Segmentation", ICCV 2021,
    https://arxiv.org/abs/2110.08188.

    Attributes:
        bank: the :class:`~.ClassMemoryBank`.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> loss = GuidedContrastiveLoss(num_classes=2, feature_channels=8)
        >>> view = torch.randn(1, 8, 16, 16, requires_grad=True)
        >>> other, logits = torch.randn(1, 8, 16, 16), 5 * torch.randn(1, 2, 16, 16)
        >>> loss(view, other, logits).item()  # the memory is still empty
        0.0
        >>> bool(loss(view, other, logits) > 0)
        True
    """

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        temperature: float = 0.1,
        confidence: float = 0.75,
        anchors_per_class: int = 256,
        negatives_per_class: int = 256,
        bank_size: int = 10_000,
    ) -> None:
        """
        Args:
            num_classes: number of classes C, background included.
            feature_channels: channels E of the features.
            temperature: tau, above 0.
            confidence: theta, probability from which a positive counts, in [0, 1].
            anchors_per_class: anchors of a class at most.
            negatives_per_class: negatives that are drawn from the memory of a class.
            bank_size: features that the memory keeps of each class.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0.0 <= confidence <= 1.0:
            raise ValueError(f"confidence must be a probability in [0, 1], got {confidence}")
        if anchors_per_class < 1 or negatives_per_class < 1:
            raise ValueError(
                f"anchors_per_class and negatives_per_class must be at least 1, "
                f"got {anchors_per_class} and {negatives_per_class}"
            )
        self.bank = ClassMemoryBank(num_classes, feature_channels, bank_size)
        self.temperature = float(temperature)
        self.confidence = float(confidence)
        self.anchors_per_class = anchors_per_class
        self.negatives_per_class = negatives_per_class

    def forward(
        self, input: torch.Tensor, other: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            input: features [B, E, *feature_spatial] of the view that is trained.
            other: features [B, E, *feature_spatial] of the other view, on the same grid; get no gradient.
            logits: logits [B, C, *spatial] of the other view, for pseudo-labels and confidence; get no gradient. The
                spatial size is that of the features or an integer multiple of it.
            mask: bool [B, 1, *spatial], True for the voxels that may be anchors. Defaults to all.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        num_classes, _, feature_channels = self.bank.features.shape
        check_logits(logits, "logits")
        if logits.shape[1] != num_classes:
            raise ValueError(f"logits must have num_classes={num_classes} channels, got {logits.shape}")
        if input.shape != other.shape:
            raise ValueError(f"input and other must have the same shape, got {input.shape} and {other.shape}")
        check_features(input, logits, feature_channels)
        mask = checked_mask(mask, logits)
        size = input.shape[2:]
        confidence, groups = (
            full_precision(at_feature_resolution(logits.detach(), size)).softmax(1).max(1, keepdim=True)
        )
        groups = groups.masked_fill(confidence < self.confidence, -1)
        if mask is not None:
            groups = groups.masked_fill(~at_feature_resolution(mask, size), -1)
        with torch.autocast(input.device.type, enabled=False):
            return self._loss(full_precision(input), full_precision(other.detach()), groups)

    def _loss(self, input: torch.Tensor, other: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        num_classes = self.bank.features.shape[0]
        index, drawn = draw_per_class(groups, num_classes, 1.0, 1, self.anchors_per_class)
        anchors, positives = unit(take(input, index)), unit(take(other, index))
        negatives, exist = self.bank.draw(self.negatives_per_class)
        own = torch.eye(num_classes, dtype=torch.bool, device=exist.device)
        excluded = own[:, :, None] | ~exist[None]  # [class of the anchor, class of the negative, negatives]
        similarity = anchors @ negatives.to(anchors.dtype).flatten(0, 1).T / self.temperature
        similarity = similarity.masked_fill(excluded.flatten(1)[:, None], torch.finfo(similarity.dtype).min / 2)
        positive = (anchors * positives).sum(-1, keepdim=True) / self.temperature
        loss = -torch.cat([positive, similarity], dim=-1).log_softmax(-1)[..., 0]
        if self.training:
            self.bank.push(positives, drawn)
        return (loss * drawn).sum() / drawn.sum().clamp(min=1)
