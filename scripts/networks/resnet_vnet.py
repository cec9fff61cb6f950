# SPDX-License-Identifier: Apache-2.0
"""Subnet a of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

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

STAGES = (3, 4, 6, 3)


class BasicBlock(nn.Module):
    """
    Residual block of two 3-wide convolutions; where it changes size or width, a 1-wide one carries the shortcut.

    He et al., "Deep Residual Learning", CVPR 2016.
    """

    def __init__(self, layers: Layers, in_channels: int, out_channels: int, stride: Stride) -> None:
        super().__init__()
        self.conv1 = layers.activated(
            layers.conv(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        )
        self.conv2 = layers.conv(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = layers.norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                layers.conv(in_channels, out_channels, 1, stride=stride, bias=False), layers.norm(out_channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(self.conv1(x)))
        residual += self.shortcut(x)
        return self.relu(residual)


class ResNetVNet(EncoderDecoder):
    """
    ResNet-34 encoder, made 3D, with V-Net's decoder.

    A 7-wide stem of stride 1 and four stages of 3, 4, 6, 3 residual blocks with 2, 4, 8, 16 times the base channels,
    each entered with stride 2. With one input channel, two classes and 16 base channels it has 17 930 354 parameters:
    15 858 384 in the encoder (convolutions without bias, each with an affine norm) and 2 071 970 in the decoder, which
    is :class:`~scripts.networks.VNet`'s.

    ``stem_stride=2`` gives the stem a stride of 2 and lets the classifier upsample, so that everything between works at
    half resolution (ours).

    Dropout drops whole channels (``Dropout3d``) before the classifier; unlike V-Net's, this bottleneck has none.

    Wang et al., "MCF: Mutual Correction Framework", CVPR 2023; as the first subnet in Lu et al., arXiv 2509.13084.

    Example:
        >>> import torch
        >>> from scripts.networks import ResNetVNet
        >>> network = ResNetVNet(spatial_dims=2, base_channels=8)
        >>> logits, features = network.forward_features(torch.zeros(1, 1, 32, 48))
        >>> logits.shape, features.shape
        (torch.Size([1, 2, 32, 48]), torch.Size([1, 8, 32, 48]))
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
            base_channels: width of the stem; each stage doubles it.
            norm: MONAI's name of a normalisation layer, or a pair of name and arguments. ``"group"`` without
                ``num_groups`` takes ``gcd(8, base_channels)`` groups, which divides every width.
            dropout: fraction of the channels dropped before the classifier while training.
            stem_stride: 1, or 2 to compute at half resolution; or such a number for each axis.
            strides: of the four downsamplings: 2, or four entries, each a number or one for each axis. With 1 along the
                slice axis of the first two, 8 thick slices are halved twice only: ``[[2, 2, 1], [2, 2, 1], 2, 2]``.

        Raises:
            ValueError: When an argument is out of its range.
        """
        check_arguments(spatial_dims, base_channels, dropout)
        stem, levels = per_axis(stem_stride, spatial_dims, "stem_stride"), check_strides(strides, spatial_dims)
        layers = Layers(spatial_dims, resolve_norm(norm, base_channels))
        encoder: list[nn.Module] = [
            layers.activated(layers.conv(in_channels, base_channels, 7, stride=stem, padding=3, bias=False))
        ]
        width = base_channels
        for depth, stride in zip(STAGES, levels, strict=True):
            entry = BasicBlock(layers, width, 2 * width, stride=stride)
            width *= 2
            encoder.append(
                nn.Sequential(entry, *[BasicBlock(layers, width, width, stride=1) for _ in range(depth - 1)])
            )
        super().__init__(layers, encoder, out_channels, base_channels, dropout, 0.0, stem, levels)
        for module in self.encoder.modules():
            if isinstance(module, layers.conv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
