# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate

from ..voxelwise import checked_mask, full_precision, one_channel
from .feature_maps import (
    at_feature_resolution,
    check_features,
    class_sums,
    inverse_length,
    shortened,
    unit,
    wide_features,
)
from .prototype_bank import PrototypeBank

__all__ = ["PrototypePseudoLabeler"]


class PrototypePseudoLabeler(nn.Module):
    r"""
    Pseudo-labels from the cosine similarity of features to one prototype per class.

    .. math::
        p = \mathrm{softmax}_c\big(\hat f \cdot \hat P_c / \tau\big)

    The prototypes :math:`P_c` are moving averages (:class:`~.PrototypeBank`) of the labelled voxels' mean features;
    call :meth:`update` with labelled features, then the module with unlabelled ones for (labels, mask), or
    :meth:`logits` for the soft pseudo-labels p, as :class:`~.ERDALoss` wants them: their gradient flows to the
    features, not to the prototypes. A class without a prototype yet has probability zero.

    Tang et al., "All Points Matter", NeurIPS 2023, https://arxiv.org/abs/2305.15832. The temperature is ours.

    Attributes:
        bank: the :class:`~.PrototypeBank`.

    Example:
        >>> import torch
        >>> labeler = PrototypePseudoLabeler(num_classes=2, feature_channels=2)
        >>> features = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # two voxels
        >>> labeler.update(features, torch.tensor([[[[0, 1]]]]))
        >>> labeler.logits(features).tolist()
        [[[[10.0, 0.0]], [[0.0, 10.0]]]]
        >>> labels, mask = labeler(features)
        >>> labels.tolist(), mask.tolist()
        ([[[[0, 1]]]], [[[[True, True]]]])
    """

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        momentum: float = 0.999,
        temperature: float = 0.1,
        threshold: float = 0.0,
    ) -> None:
        """
        Args:
            num_classes: number of classes C, background included.
            feature_channels: channels E of the features.
            momentum: of the prototypes' moving average, in [0, 1].
            temperature: tau, above 0.
            threshold: probability from which a pseudo-label is reliable, in [0, 1]. 0 keeps all.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must be a probability in [0, 1], got {threshold}")
        self.bank = PrototypeBank(num_classes, feature_channels, momentum)
        self.temperature = float(temperature)
        self.threshold = float(threshold)

    @torch.no_grad()
    def update(self, features: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """
        Move the prototypes towards the mean features of the classes in this batch.

        Args:
            features: [B, E, *feature_spatial].
            labels: ground truth class maps [B, 1, *spatial]; the spatial size is that of the features or an integer
                multiple of it.
            mask: bool [B, 1, *spatial], True where a voxel counts. Defaults to all voxels.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        num_classes, feature_channels = self.bank.prototypes.shape
        check_features(features, labels, feature_channels)
        labels = one_channel(labels, labels, "labels")
        mask = checked_mask(mask, labels)
        allowed = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        size = features.shape[2:]
        labels, allowed = at_feature_resolution(labels, size), at_feature_resolution(allowed, size)
        with torch.autocast(features.device.type, enabled=False):
            self.bank.update(*class_sums(full_precision(features), labels, allowed, num_classes))

    @torch.no_grad()
    def forward(self, features: torch.Tensor, size: Sequence[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            features: [B, E, *feature_spatial].
            size: spatial size of the pseudo-labels. Defaults to that of the features.

        Returns:
            The pseudo-labels, int64 [B, 1, *size], and the reliable voxels, bool [B, 1, *size]; none is reliable before
            the first :meth:`update`.

        Raises:
            ValueError: When the features have another number of channels than the prototypes.
        """
        confidence, labels = self.logits(features, size).softmax(1).max(1, keepdim=True)
        return labels, (confidence >= self.threshold) & self.bank.seen.any()

    def logits(self, features: torch.Tensor, size: Sequence[int] | None = None) -> torch.Tensor:
        """
        Args:
            features: [B, E, *feature_spatial]; get the gradient.
            size: spatial size to interpolate the logits to, linearly. Defaults to that of the features.

        Returns:
            Logits of the pseudo-labels [B, C, *size].

        Raises:
            ValueError: When the features have another number of channels than the prototypes.
        """
        feature_channels = self.bank.prototypes.shape[1]
        if features.dim() < 3 or features.shape[1] != feature_channels:
            raise ValueError(f"features must be [B, {feature_channels}, *spatial], got {features.shape}")
        with torch.autocast(features.device.type, enabled=False):
            features = shortened(wide_features(features), 1)
            prototypes = unit(self.bank.prototypes.to(features.dtype))
            shape = (features.shape[0], prototypes.shape[0], *features.shape[2:])
            products = torch.matmul(prototypes, features.flatten(2)).reshape(shape)
            logits = products * inverse_length(features) / self.temperature
            if size is not None and tuple(size) != tuple(logits.shape[2:]):
                logits = _resized(logits, size)
            unseen = ~self.bank.seen.view(1, -1, *[1] * (logits.dim() - 2))
            return logits.masked_fill(unseen, torch.finfo(torch.float16).min)


def _resized(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if logits.numel() == 0 or 0 in size:
        return logits.sum() + logits.new_zeros(*logits.shape[:2], *size)
    mode = "bilinear" if logits.dim() == 4 else "trilinear"
    return interpolate(logits, tuple(size), mode=mode, align_corners=False)
