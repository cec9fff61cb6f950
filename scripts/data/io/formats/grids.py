# SPDX-License-Identifier: Apache-2.0
"""How one grid of voxels lies in another: the same voxels in another order of axes are laid over exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["AFFINE_TOLERANCE", "Placement", "corner_gap", "placement"]

AFFINE_TOLERANCE = 0.1
"""How far, in voxels, a label's corner may lie from where its image has it."""


@dataclass(frozen=True)
class Placement:
    """Where the voxels of one grid are in another, exactly.

    Attributes:
        axes: for each axis of the target the source's axis.
        flips: whether it runs the other way, for each axis of the target.
        start: first voxel of the target that the source covers.
        shape: of the target.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    def covers(self, source: tuple[int, ...]) -> bool:
        """Whether a source of this shape fills the target."""
        return not any(self.start) and tuple(source[axis] for axis in self.axes) == self.shape

    @property
    def changes_nothing(self) -> bool:
        """Whether the axes are the same and nothing is moved."""
        return self.axes == (0, 1, 2) and not any(self.flips) and not any(self.start)

    def apply(self, voxels: np.ndarray) -> np.ndarray:
        """The voxels ``[X, Y, Z]`` in the target's order; 0 where the source has none."""
        turned = voxels.transpose(self.axes)
        turned = turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)]
        if turned.shape == self.shape:
            return turned
        placed = np.zeros(self.shape, voxels.dtype)
        ends = zip(self.start, turned.shape, strict=True)
        placed[tuple(slice(start, start + length) for start, length in ends)] = turned
        return placed


def corner_gap(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> float:
    """How far apart, in mm, two affines put the corners of one shape, at most (ours)."""
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.asarray(shape) - 1
    return float(np.linalg.norm(((first - second) @ corners.T)[:3], axis=0).max())


def placement(
    shape: tuple[int, ...], affine: np.ndarray, target_shape: tuple[int, ...], target_affine: np.ndarray
) -> Placement | None:
    """How a grid lies in another one when its voxels are voxels of that: axes permuted, reversed, moved by whole ones.

    Args:
        shape: voxels along x, y, z of the source.
        affine: its voxel indices to RAS+ mm.
        target_shape: of the target.
        target_affine: of the target.

    Returns:
        None where some corner would be more than :data:`AFFINE_TOLERANCE` voxels off, or outside the target.

    Source: ours.
    """
    exact = np.linalg.solve(target_affine, affine)
    turn = np.rint(exact[:3, :3])
    if not (np.abs(turn).sum(0) == 1).all() or not (np.abs(turn).sum(1) == 1).all():
        return None
    axes = tuple(int(axis) for axis in np.abs(turn).argmax(1))
    flips = tuple(bool(turn[axis].sum() < 0) for axis in range(3))
    lengths = np.array([shape[axis] for axis in axes])
    # Of a reversed axis the source's last voxel is the first one in the target. The centre is matched, so that small
    # differences in voxel size do not add up on one side.
    middle = np.append((np.asarray(shape) - 1) / 2, 1)
    start = np.rint((exact @ middle)[:3] - (lengths - 1) / 2).astype(int)
    rounded = np.eye(4)
    rounded[:3, :3] = turn
    rounded[:3, 3] = start + np.array(flips) * (lengths - 1)
    if (start < 0).any() or (start + lengths > np.asarray(target_shape)).any():
        return None
    voxel = float(np.linalg.norm(target_affine[:3, :3], axis=0).min())
    if corner_gap(tuple(shape), target_affine @ rounded, affine) > AFFINE_TOLERANCE * voxel:
        return None
    return Placement(axes, flips, tuple(int(n) for n in start), tuple(int(n) for n in target_shape))
