# SPDX-License-Identifier: Apache-2.0
"""What both subnets share: the V-Net decoder, dropout, classifier, and the way through them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers.factories import Conv, Dropout, split_args
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from .recomputation import recomputed

NormSpec = str | tuple[str, dict[str, Any]]
Stride = int | Sequence[int]
Convolution = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d

GROUPS = 8
DECODER_DEPTHS = (3, 3, 2, 1)
LEVELS = 4
"""Downsamplings below the stem."""


def resolve_norm(norm: NormSpec, base_channels: int) -> tuple[str, dict[str, Any]]:
    """
    Complete a normalisation layer's specification with the two settings MONAI leaves open (ours).

    Group norm without ``num_groups`` gets ``gcd(8, base_channels)`` groups: every layer's width is a multiple of
    ``base_channels``, so this number is valid everywhere (8 for widths of 8, 16, 24, ...). Instance norm is affine
    unless told otherwise, like the other two.

    Args:
        norm: a name (``"batch"``, ``"group"``, ``"instance"``, ...) or a pair of name and arguments, as MONAI takes it.
        base_channels: the width of the network's first level.

    Returns:
        Name and arguments for :func:`monai.networks.layers.utils.get_norm_layer`.
    """
    name, arguments = split_args(norm)
    arguments = dict(arguments)
    if str(name).lower() == "group":
        arguments.setdefault("num_groups", math.gcd(GROUPS, base_channels))
    elif str(name).lower().startswith("instance"):
        arguments.setdefault("affine", True)
    return name, arguments


class Layers:
    """Makes the layers of one network, whose dimensions and normalisation it knows."""

    def __init__(self, spatial_dims: int, norm: tuple[str, dict[str, Any]]) -> None:
        self.spatial_dims = spatial_dims
        self.norm_spec = norm
        self.conv = Conv["conv", spatial_dims]
        self.transposed_conv = Conv["convtrans", spatial_dims]

    def norm(self, channels: int) -> nn.Module:
        return get_norm_layer(self.norm_spec, self.spatial_dims, channels)

    def activated(self, conv: Convolution) -> nn.Sequential:
        """Convolution, norm, ReLU. In place: no norm needs its own output for the backward pass."""
        return nn.Sequential(conv, self.norm(conv.out_channels), nn.ReLU(inplace=True))

    def block(self, depth: int, in_channels: int, out_channels: int) -> nn.Sequential:
        """V-Net's plain stack of ``depth`` 3-wide convolutions."""
        widths = [in_channels] + [out_channels] * depth
        convs = [self.conv(i, o, 3, padding=1) for i, o in itertools.pairwise(widths)]
        return nn.Sequential(*[self.activated(conv) for conv in convs])

    def down(self, in_channels: int, out_channels: int, stride: tuple[int, ...]) -> nn.Sequential:
        return self.activated(self.conv(in_channels, out_channels, stride, stride=stride))

    def up(self, in_channels: int, out_channels: int, stride: tuple[int, ...]) -> nn.Sequential:
        return self.activated(self.transposed_conv(in_channels, out_channels, stride, stride=stride))


def per_axis(stride: Stride, spatial_dims: int, name: str) -> tuple[int, ...]:
    """
    A stride for each axis, of one number or of one for each.

    Raises:
        ValueError: When it is not 1 or 2 along every axis.
    """
    strides = (stride,) * spatial_dims if isinstance(stride, int) else tuple(stride)
    if len(strides) != spatial_dims or not set(strides) <= {1, 2}:
        raise ValueError(f"{name} must be 1 or 2, or {spatial_dims} such numbers, one for each axis, got {stride}.")
    return strides


def upsampling_classifier(layers: Layers, in_channels: int, out_channels: int, stride: tuple[int, ...]) -> nn.Module:
    """
    Classifier from features at half resolution to logits at full: a transposed convolution of stride 2, 4 wide.

    Along an axis of stride 1 it is 1 wide. It starts as a 1-wide classifier followed by linear interpolation (its
    kernels are the outer product of both) and learns from there, so that it can place a boundary between the coarse
    voxels (ours).
    """
    widths, padding = tuple(4 if s == 2 else 1 for s in stride), tuple(s - 1 for s in stride)
    classifier = layers.transposed_conv(in_channels, out_channels, widths, stride=stride, padding=padding)
    lines = [torch.tensor([0.25, 0.75, 0.75, 0.25] if s == 2 else [1.0]) for s in stride]
    kernel = lines[0]
    for line in lines[1:]:
        kernel = kernel.unsqueeze(-1) * line
    bound = 1 / math.sqrt(in_channels)
    weight = torch.empty(in_channels, out_channels).uniform_(-bound, bound)
    with torch.no_grad():
        classifier.weight.copy_(weight.reshape(in_channels, out_channels, *[1] * layers.spatial_dims) * kernel)
        classifier.bias.uniform_(-bound, bound)
    return classifier


class EncoderDecoder(nn.Module):
    """
    Five encoder levels, each at half the size of the one above, and V-Net's decoder with additive skips.

    The subclasses bring the encoder; everything after it is the same in both (Yu et al., UA-MT, MICCAI 2019; Wang et
    al., MCF, CVPR 2023).

    Attributes:
        feature_channels: E, the width of the features.
        size_multiple: the input must be a multiple of this number of voxels along every axis; a tuple, one for each,
            where they differ.
        checkpointing: keep only what goes into each level for the backward pass, and compute the level again there:
            less memory, more time, the same numbers.
    """

    def __init__(
        self,
        layers: Layers,
        encoder: Sequence[nn.Module],
        out_channels: int,
        base_channels: int,
        dropout: float,
        bottleneck_dropout: float,
        stem_stride: tuple[int, ...],
        strides: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.checkpointing = False
        self.feature_channels = base_channels
        multiples = size_multiples(stem_stride, strides, layers.spatial_dims)
        equal = len(set(multiples)) == 1
        self.size_multiple = multiples[0] if equal else tuple(multiples)
        self.multiples = multiples
        self.size_needed = f"{multiples[0]} along every axis" if equal else f"{self.multiples} voxels, axis by axis"
        widths = [base_channels * 2**level for level in range(len(encoder))]
        self.encoder = nn.ModuleList(encoder)
        self.bottleneck_dropout = Dropout["dropout", layers.spatial_dims](bottleneck_dropout)
        self.ups = nn.ModuleList(
            layers.up(2 * width, width, stride) for width, stride in zip(widths[-2::-1], reversed(strides), strict=True)
        )
        self.blocks = nn.ModuleList(
            layers.block(depth, width, width) for depth, width in zip(DECODER_DEPTHS, widths[-2::-1], strict=True)
        )
        self.dropout = Dropout["dropout", layers.spatial_dims](dropout)
        if set(stem_stride) == {1}:
            self.classifier = layers.conv(base_channels, out_channels, 1)
        else:
            self.classifier = upsampling_classifier(layers, base_channels, out_channels, stem_stride)

    def _check_size(self, x: Tensor) -> None:
        size = x.shape[2:]
        for length, multiple in zip(size, self.multiples):  # noqa: B905 - TorchScript has no zip(strict=)
            if length % multiple != 0:
                raise ValueError(
                    f"The network needs a size that is a multiple of {self.size_needed}, "
                    f"but got an input of {list(size)}: {length} is not. Change the patch size, or pad the image."
                )

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        Logits and the features they come from.

        Args:
            x: images [B, C_in, *S].

        Returns:
            Logits [B, C, *S] and features [B, E, *S'], taken before dropout and classifier, where S' = S / stem_stride.

        Raises:
            ValueError: When a spatial size is not a multiple of ``size_multiple``.
        """
        if not torch.jit.is_tracing():
            self._check_size(x)
        if not torch.jit.is_scripting() and self.checkpointing and torch.is_grad_enabled():
            return self._recomputed_features(x)
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        x = self.bottleneck_dropout(skips.pop())
        for up, block in zip(self.ups, self.blocks):  # noqa: B905 - TorchScript has no zip(strict=)
            x = block(up(x) + skips.pop())
        return self.classifier(self.dropout(x)), x

    def _recomputed_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skips: list[Tensor] = []
        for level in self.encoder:
            x = recomputed(level, self, x)
            skips.append(x)
        x = self.bottleneck_dropout(skips.pop())
        for up, block in zip(self.ups, self.blocks, strict=True):
            x = recomputed(_rise, self, up, block, x, skips.pop())
        return recomputed(_classify, self, self.classifier, self.dropout, x), x

    def forward(self, x: Tensor) -> Tensor:
        """
        Logits at the size of the input.

        Args:
            x: images [B, C_in, *S].

        Returns:
            Logits [B, C, *S].

        Raises:
            ValueError: When a spatial size is not a multiple of ``size_multiple``.
        """
        return self.forward_features(x)[0]


def _rise(up: nn.Module, block: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
    return block(up(x) + skip)


def _classify(classifier: nn.Module, dropout: nn.Module, x: Tensor) -> Tensor:
    return classifier(dropout(x))


def check_arguments(spatial_dims: int, base_channels: int, dropout: float) -> None:
    """
    Check what both networks are given.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3, ``base_channels`` not positive or ``dropout`` not in [0, 1).
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    if base_channels < 1:
        raise ValueError(f"base_channels must be positive, got {base_channels}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and less than 1, got {dropout}.")


def check_strides(strides: Stride | Sequence[Stride], spatial_dims: int) -> list[tuple[int, ...]]:
    """
    A stride per axis for each downsampling: of one number for all, or of one entry for each.

    Raises:
        ValueError: When there are not as many entries as downsamplings, or one is not 1 or 2 along every axis.
    """
    each: list[Stride] = [strides] * LEVELS if isinstance(strides, int) else list(strides)
    if len(each) != LEVELS:
        raise ValueError(f"strides must be one number or {LEVELS} entries, one for each downsampling, got {strides}.")
    return [per_axis(stride, spatial_dims, "an entry of strides") for stride in each]


def size_multiples(stem_stride: Stride, strides: Stride | Sequence[Stride], spatial_dims: int) -> list[int]:
    """
    What the length of each axis must be a multiple of in both networks (ours).

    Args:
        stem_stride: of the networks.
        strides: of the networks.
        spatial_dims: 2 or 3.

    Returns:
        The product of all strides along each axis.

    Raises:
        ValueError: When there are not as many strides as downsamplings, or one is not 1 or 2 along every axis.

    Example:
        >>> size_multiples(1, [[2, 2, 1], [2, 2, 1], 2, 2], 3)
        [16, 16, 4]
    """
    stem = per_axis(stem_stride, spatial_dims, "stem_stride")
    return [math.prod(along) for along in zip(stem, *check_strides(strides, spatial_dims), strict=True)]
