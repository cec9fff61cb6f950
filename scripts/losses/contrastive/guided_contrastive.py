# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..renamed import renamed
from ..voxelwise import check_logits, check_matching, checked_mask, full_precision
from .class_memory_bank import ClassMemoryBank
from .feature_maps import at_feature_resolution, check_features, draw_per_class, take, unit, wide_features

__all__ = ["GuidedContrastiveLoss"]


@renamed(
    __init__={"confidence": "threshold"},
    __call__={"input": "features", "other": "teacher_features", "logits": "teacher"},
)
class GuidedContrastiveLoss(nn.Module):
    r"""
    InfoNCE between two views, guided by pseudo-labels: no negative of the anchor's class, no doubtful positive.

    For unit features :math:`f_i` of the trained view, :math:`g_i` of the other view with pseudo-label :math:`c_i` and
    confidence :math:`s_i`, and negatives :math:`g_n` drawn from a memory of the classes other than :math:`c_i`:

    .. math::
        L = \frac{\sum_i [s_i \ge \theta] \, \ell_i}{\max(\sum_i [s_i \ge \theta], 1)}, \qquad
        \ell_i = -\log \frac{\exp(f_i \cdot g_i / \tau)}{\exp(f_i \cdot g_i / \tau) + \sum_n \exp(f_i \cdot g_n / \tau)}

    Anchors are drawn in equal number from the classes. The positives and negatives are constants, so only ``features``
    are trained. In training mode the positives that were counted then enter the memory. While no other class is in the
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
        threshold: float = 0.75,
        anchors_per_class: int = 256,
        negatives_per_class: int = 256,
        bank_size: int = 10_000,
    ) -> None:
        """
        Args:
            num_classes: number of classes C, background included.
            feature_channels: channels E of the features.
            temperature: tau, above 0.
            threshold: theta, probability from which a positive counts, in [0, 1].
            anchors_per_class: anchors of a class at most.
            negatives_per_class: negatives that are drawn from the memory of a class.
            bank_size: features that the memory keeps of each class.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must be a probability in [0, 1], got {threshold}")
        if anchors_per_class < 1 or negatives_per_class < 1:
            raise ValueError(
                f"anchors_per_class and negatives_per_class must be at least 1, "
                f"got {anchors_per_class} and {negatives_per_class}"
            )
        self.bank = ClassMemoryBank(num_classes, feature_channels, bank_size)
        self.temperature = float(temperature)
        self.threshold = float(threshold)
        self.anchors_per_class = anchors_per_class
        self.negatives_per_class = negatives_per_class

    def forward(
        self,
        features: torch.Tensor,
        teacher_features: torch.Tensor,
        teacher: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            features: [B, E, *feature_spatial] of the view that is trained.
            teacher_features: [B, E, *feature_spatial] of the other view, on the same grid; get no gradient.
            teacher: logits [B, C, *spatial] of the other view, for pseudo-labels and confidence; get no gradient. The
                spatial size is that of the features or an integer multiple of it.
            mask: bool [B, 1, *spatial], True for the voxels that may be anchors. Defaults to all.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        num_classes, _, feature_channels = self.bank.features.shape
        check_logits(teacher, "teacher", num_classes)
        check_matching(features, teacher_features, "features", "teacher_features")
        check_features(features, teacher, feature_channels)
        mask = checked_mask(mask, teacher)
        size = features.shape[2:]
        confidence, groups = (
            full_precision(at_feature_resolution(teacher.detach(), size)).softmax(1).max(1, keepdim=True)
        )
        groups = groups.masked_fill(confidence < self.threshold, -1)
        if mask is not None:
            groups = groups.masked_fill(~at_feature_resolution(mask, size), -1)
        with torch.autocast(features.device.type, enabled=False):
            return self._loss(wide_features(features), full_precision(teacher_features.detach()), groups)

    def _loss(self, features: torch.Tensor, teacher_features: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        num_classes = self.bank.features.shape[0]
        index, drawn = draw_per_class(groups, num_classes, 1.0, 1, self.anchors_per_class)
        anchors, positives = unit(take(features, index)), unit(take(teacher_features, index))
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
