# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ..renamed import renamed
from ..voxelwise import check_matching, checked_mask, one_channel
from .feature_maps import at_feature_resolution, check_features, take, unit, wide_features

__all__ = ["VoxelContrastiveLoss"]

# Negatives are drawn from this many random voxels of the batch: drawing from all of a volume costs more than the loss.
MAX_CANDIDATES = 2**13


@renamed(__call__={"input": "features", "other": "other_features"})
class VoxelContrastiveLoss(nn.Module):
    r"""
    InfoNCE between two views of a batch: a voxel resembles itself in the other view, not other classes in other images.

    For a unit feature :math:`f_i` of one view, the unit feature :math:`g_i` of the same voxel in the other view and
    negatives :math:`g_n` that are drawn from the voxels of another class in another image of the other view:

    .. math::
        L = -\frac1{|A|} \sum_{i \in A}
            \log \frac{\exp(f_i \cdot g_i / \tau)}{\exp(f_i \cdot g_i / \tau) + \sum_n \exp(f_i \cdot g_n / \tau)}

    Bidirectional as in the paper: the mean of the loss and of its mirror image, and both views are trained. The anchors
    A are always a random subset. An anchor without negatives (a batch of one image, or of one class) counts zero.

    Zhao et al., "RCPS: Rectified Contrastive Pseudo Supervision for Semi-Supervised Medical Image Segmentation", IEEE
    JBHI 2023, https://arxiv.org/abs/2301.05500. Drawing the negatives from 8,192 random voxels of the batch is ours: an
    anchor of a class that fills nearly all of them gets fewer negatives.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> view, other = torch.randn(2, 2, 8, 16, 16)
        >>> labels = torch.randint(0, 2, (2, 1, 16, 16))
        >>> loss = VoxelContrastiveLoss()
        >>> bool(loss(view, view, labels) < loss(view, other, labels))
        True
    """

    def __init__(self, temperature: float = 0.1, num_negatives: int = 400, num_anchors: int = 1024) -> None:
        """
        Args:
            temperature: tau, above 0.
            num_negatives: negatives of an anchor at most.
            num_anchors: anchors of the batch at most.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if num_negatives < 1 or num_anchors < 1:
            raise ValueError(f"num_negatives and num_anchors must be at least 1, got {num_negatives} and {num_anchors}")
        self.temperature = float(temperature)
        self.num_negatives = num_negatives
        self.num_anchors = num_anchors

    def forward(
        self,
        features: torch.Tensor,
        other_features: torch.Tensor,
        labels: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            features: [B, E, *feature_spatial] of one view.
            other_features: [B, E, *feature_spatial] of the other view, on the same grid.
            labels: (pseudo-)labels, class maps [B, 1, *spatial]; the spatial size is that of the features or an integer
                multiple of it.
            mask: bool [B, 1, *spatial], True for the voxels that may be anchors or negatives. Defaults to all.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        check_matching(features, other_features, "features", "other_features")
        check_features(features, labels)
        labels = one_channel(labels, labels, "labels")
        mask = checked_mask(mask, labels)
        size = features.shape[2:]
        classes = at_feature_resolution(labels, size).flatten()
        allowed = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        allowed = at_feature_resolution(allowed, size).flatten()
        images = torch.arange(features.shape[0], device=labels.device).repeat_interleave(size.numel())
        with torch.autocast(features.device.type, enabled=False):
            anchors, drawn = _draw(allowed[None], self.num_anchors)
            anchors, drawn = anchors[0], drawn[0]
            candidates = torch.arange(len(classes), device=classes.device)
            if len(candidates) > MAX_CANDIDATES:
                candidates = torch.randint(len(candidates), (MAX_CANDIDATES,), device=classes.device)
            other_class = classes[candidates] != classes[anchors][:, None]
            other_image = images[candidates] != images[anchors][:, None]
            negatives, valid = _draw(allowed[candidates] & other_class & other_image, self.num_negatives)
            # One read of each view: the gradient of every read is a tensor as large as the features.
            read = torch.cat([anchors, candidates])
            views = [
                unit(take(wide_features(view), read)).tensor_split([len(anchors)])
                for view in (features, other_features)
            ]
            loss = sum(
                self._one_way(view[0], mirror[0], mirror[1], negatives, valid) for view, mirror in (views, views[::-1])
            )
            return (loss / 2 * drawn).sum() / drawn.sum().clamp(min=1)

    def _one_way(
        self,
        anchors: torch.Tensor,
        positives: torch.Tensor,
        candidates: torch.Tensor,
        negatives: torch.Tensor,
        valid: torch.Tensor,
    ) -> torch.Tensor:
        """Loss [A] of unit anchors and positives [A, E], and negatives [A, n] among the unit candidates [N, E]."""
        positive = (anchors * positives).sum(-1, keepdim=True) / self.temperature
        negative = (anchors @ candidates.T).gather(1, negatives) / self.temperature
        negative = negative.masked_fill(~valid, torch.finfo(negative.dtype).min / 2)
        return -torch.cat([positive, negative], dim=1).log_softmax(1)[:, 0]


def _draw(eligible: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    lots = torch.rand(eligible.shape, device=eligible.device).masked_fill(~eligible, -1.0)
    lots, index = lots.topk(min(number, eligible.shape[1]), dim=1)
    return index, lots >= 0
