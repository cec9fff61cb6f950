# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate

from .feature_maps import at_feature_resolution, check_features, class_sums, inverse_length, unit
from .prototype_bank import PrototypeBank
from .voxelwise import checked_mask, full_precision, one_channel

__all__ = ["PrototypePseudoLabeler"]


class PrototypePseudoLabeler(nn.Module):
    r"""
    Soft pseudo-labels from the cosine similarity of features to one prototype per class.

    .. math::
        p = \mathrm{softmax}_c\big(\hat f \cdot \hat P_c / \tau\big)

    The prototypes :math:`P_c` are moving averages (:class:`~.PrototypeBank`) of the labelled voxels' mean features;
    call :meth:`update` with labelled features, then the module with unlabelled ones. A gradient flows to the features,
    as :class:`~.ERDALoss` wants it, not to the prototypes. A class without a prototype yet has probability zero.

    Tang et al., "All Points Matter", NeurIPS 2023, https://arxiv.org/abs/2305.15832. The temperature is ours.

    Attributes:
        bank: the :class:`~.PrototypeBank`.

    Example:
        >>> import torch
        >>> labeler = PrototypePseudoLabeler(num_classes=2, feature_channels=2)
        >>> features = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # two voxels
        >>> labeler.update(features, torch.tensor([[[[0, 1]]]]))
        >>> labeler(features).tolist()
        [[[[10.0, 0.0]], [[0.0, 10.0]]]]
    """

    def __init__(
        self, num_classes: int, feature_channels: int, momentum: float = 0.999, temperature: float = 0.1
    ) -> None:
        """
        Args:
            num_classes: number of classes C, background included.
            feature_channels: channels E of the features.
            momentum: of the prototypes' moving average, in [0, 1].
            temperature: tau, above 0.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.bank = PrototypeBank(num_classes, feature_channels, momentum)
        self.temperature = float(temperature)

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

    def forward(self, features: torch.Tensor, size: Sequence[int] | None = None) -> torch.Tensor:
        """
        Args:
            features: [B, E, *feature_spatial].
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
            features = full_precision(features)
            prototypes = unit(self.bank.prototypes.to(features.dtype))
            products = torch.matmul(prototypes, features.flatten(2)).unflatten(2, features.shape[2:])
            logits = products * inverse_length(features) / self.temperature
            if size is not None and tuple(size) != tuple(logits.shape[2:]):
                mode = "bilinear" if logits.dim() == 4 else "trilinear"
                logits = interpolate(logits, tuple(size), mode=mode, align_corners=False)
            unseen = ~self.bank.seen.view(1, -1, *[1] * (logits.dim() - 2))
            return logits.masked_fill(unseen, torch.finfo(torch.float16).min)
