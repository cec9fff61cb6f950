# SPDX-License-Identifier: Apache-2.0
"""Values of a volume at the points of a rotated and scaled grid, straight from its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

__all__ = ["sample_linear", "sample_nearest"]

_POINTS = 2**17
"""Points that are computed at a time, so that what lies between fits a processor's cache."""


def sample_linear(
    volume: torch.Tensor, matrix: torch.Tensor, centre: Sequence[float], size: Sequence[int]
) -> torch.Tensor:
    """Linear interpolation at the points of an affine grid; outside the volume, its nearest border voxel.

    The same numbers as ``grid_sample(padding_mode="border", align_corners=True)`` to rounding, in half its time on a
    CPU and without a grid in memory.

    Args:
        volume: float [C, *S], two or three spatial axes.
        matrix: [dims, dims], what a step along each axis of the grid is in voxels of the volume.
        centre: where in the volume the grid's centre lies, in voxels from the centre of the first.
        size: points of the grid along each axis.

    Returns:
        [C, *size].

    Source: ours.
    """
    shape, strides = volume.shape[1:], _strides(volume.shape[1:])
    flat = volume.reshape(volume.shape[0], -1)
    out = volume.new_empty(volume.shape[0], *size)
    for planes, axes in _coordinates(matrix, centre, size, shape):
        index, weights = _corner(axes, shape, strides)
        for channel, values in enumerate(flat):
            out[channel, planes] = _between(values, index, weights, strides).view(out[channel, planes].shape)
    return out


def sample_nearest(
    volume: torch.Tensor, matrix: torch.Tensor, centre: Sequence[float], size: Sequence[int]
) -> torch.Tensor:
    """The nearest voxel's value at the points of an affine grid; arguments as of :func:`sample_linear`."""
    shape, strides = volume.shape[1:], _strides(volume.shape[1:])
    flat = volume.reshape(volume.shape[0], -1)
    out = volume.new_empty(volume.shape[0], *size)
    for planes, axes in _coordinates(matrix, centre, size, shape):
        index = _flat_index([axis.add_(0.5).floor_() for axis in axes], strides)
        for channel, values in enumerate(flat):
            out[channel, planes] = values.index_select(0, index).view(out[channel, planes].shape)
    return out


def _strides(shape: Sequence[int]) -> list[int]:
    strides = [1]
    for side in reversed(shape[1:]):
        strides.insert(0, strides[0] * side)
    return strides


def _coordinates(
    matrix: torch.Tensor, centre: Sequence[float], size: Sequence[int], shape: Sequence[int]
) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Some planes of the grid at a time: which, and where they lie along each axis of the volume, within it."""
    steps = [torch.arange(side, dtype=torch.float32) - (side - 1) / 2 for side in size]
    dims = len(size)
    rows = []
    for axis in range(dims):
        row = torch.tensor(float(centre[axis]))
        for other in range(1, dims):
            row = row + (steps[other] * matrix[axis, other]).view(-1, *[1] * (dims - 1 - other))
        rows.append(row)
    at_a_time = max(1, _POINTS // max(1, rows[0].numel()))
    for first in range(0, size[0], at_a_time):
        planes = slice(first, first + at_a_time)
        yield (
            planes,
            [
                ((steps[0][planes] * matrix[axis, 0]).view(-1, *[1] * (dims - 1)) + rows[axis]).clamp_(
                    0, shape[axis] - 1
                )
                for axis in range(dims)
            ],
        )


def _flat_index(axes: list[torch.Tensor], strides: Sequence[int]) -> torch.Tensor:
    index = axes[0].to(torch.int32).mul_(strides[0])  # twice as fast as int64; a volume has fewer than 2^31 voxels
    for axis, stride in zip(axes[1:], strides[1:], strict=True):
        index.add_(axis.to(torch.int32), alpha=stride)
    return index.flatten()


def _corner(
    axes: list[torch.Tensor], shape: Sequence[int], strides: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Index of the lowest of the voxels around each point, and how far along each axis; None where it has one voxel."""
    floors = [axis.floor().clamp_(max=max(side - 2, 0)) for axis, side in zip(axes, shape, strict=True)]
    weights = [
        axis.sub_(floor).flatten() if side > 1 else None for axis, floor, side in zip(axes, floors, shape, strict=True)
    ]
    return _flat_index(floors, strides), weights


def _between(
    values: torch.Tensor, index: torch.Tensor, weights: list[torch.Tensor | None], strides: Sequence[int]
) -> torch.Tensor:
    """Interpolate along the last axis, then the one before it, up to the first."""

    def along(axis: int, offset: int) -> torch.Tensor:
        if axis == len(weights):
            return values[offset:].index_select(0, index)
        low = along(axis + 1, offset)
        weight = weights[axis]
        return low if weight is None else low.lerp_(along(axis + 1, offset + strides[axis]), weight)

    return along(0, 0)
