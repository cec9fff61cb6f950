# SPDX-License-Identifier: Apache-2.0
"""Subnet b of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .encoder_decoder import (
    EncoderDecoder,
    Layers,
    NormSpec,
    Stride,
    check_arguments,
    check_strides,
    per_axis,
    resolve_norm,
)

ENCODER_DEPTHS = (1, 2, 3, 3, 3)


class VNet(EncoderDecoder):
    """
    V-Net as semi-supervised segmentation uses it: plain blocks of 1, 2, 3, 3, 3 convolutions on the way down and
    3, 3, 2, 1 on the way up, strided convolutions between them, skips that are added.

    With one input channel, two classes and 16 base channels it has 9 448 866 parameters: 7 376 896 in the encoder
    (blocks and 2-wide down-convolutions, all with bias and an affine norm) and 2 071 970 in the decoder (2-wide
    transposed convolutions, blocks, 1-wide classifier).

    ``stem_stride=2`` puts a 3-wide convolution of stride 2 in front and lets the classifier upsample, so that
    everything between works at half resolution (ours).

    Dropout drops whole channels (``Dropout3d``), as the field's V-Net does: neighbouring voxels of a feature map are
    too alike for dropping single ones to regularise. It acts at the bottleneck and before the classifier.

    Milletari et al., "V-Net", 3DV 2016; in the form of Yu et al., "Uncertainty-aware Self-ensembling Model", MICCAI
    2019; as the second subnet in Lu et al., arXiv 2509.13084.

    Example:
        >>> import torch
        >>> from scripts.networks import VNet
        >>> network = VNet(base_channels=8, out_channels=3)
        >>> network(torch.zeros(1, 1, 32, 48, 16)).shape
        torch.Size([1, 3, 32, 48, 16])
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        base_channels: int = 16,
        norm: NormSpec = "batch",
        dropout: float = 0.5,
        stem_stride: Stride = 1,
        strides: Stride | Sequence[Stride] = 2,
    ) -> None:
        """
        Args:
            spatial_dims: 2 or 3.
            in_channels: channels of the image.
            out_channels: classes, the background among them.
            base_channels: width of the first level; each level down doubles it.
            norm: MONAI's name of a normalisation layer, or a pair of name and arguments. ``"group"`` without
                ``num_groups`` takes ``gcd(8, base_channels)`` groups, which divides every width.
            dropout: fraction of the channels dropped at the bottleneck and before the classifier while training.
            stem_stride: 1, or 2 to compute at half resolution; or such a number for each axis.
            strides: of the four downsamplings: 2, or four entries, each a number or one for each axis. With 1 along the
                slice axis of the first two, 8 thick slices are halved twice only: ``[[2, 2, 1], [2, 2, 1], 2, 2]``.

        Raises:
            ValueError: When an argument is out of its range.
        """
        check_arguments(spatial_dims, base_channels, dropout)
        stem, levels = per_axis(stem_stride, spatial_dims, "stem_stride"), check_strides(strides, spatial_dims)
        layers = Layers(spatial_dims, resolve_norm(norm, base_channels))
        first, *deeper = ENCODER_DEPTHS
        if set(stem) == {1}:
            encoder: list[nn.Module] = [layers.block(first, in_channels, base_channels)]
        else:
            halved = layers.activated(layers.conv(in_channels, base_channels, 3, stride=stem, padding=1))
            encoder = [nn.Sequential(halved, layers.block(first, base_channels, base_channels))]
        width = base_channels
        for depth, stride in zip(deeper, levels, strict=True):
            encoder.append(
                nn.Sequential(layers.down(width, 2 * width, stride), layers.block(depth, 2 * width, 2 * width))
            )
            width *= 2
        super().__init__(layers, encoder, out_channels, base_channels, dropout, dropout, stem, levels)
