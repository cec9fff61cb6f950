# SPDX-License-Identifier: Apache-2.0
"""A scan as one array and as slabs of another grid: what MONAI's Orientation and Spacing do, with bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import nibabel.orientations as orientations
import numpy as np
import torch
from monai.data.utils import compute_shape_offset, zoom_affine
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ...data.io.volumes import open_volume
from ...data.transforms.anti_alias import NEGLIGIBLE
from ...errors import DataError

__all__ = ["Axis", "OrientedScan", "axes_between", "read_oriented", "resample", "resampled_planes"]

RAS = orientations.axcodes2ornt("RAS")
SLAB = 16
"""Planes that are resampled at a time."""


@dataclass
class OrientedScan:
    """A scan in RAS order.

    Attributes:
        voxels: [C, X, Y, Z], float32.
        affine: its voxel indices to RAS+ mm.
        own_affine: the file's.
        to_own: orientation that leads back to the file's order of axes.
    """

    voxels: np.ndarray
    affine: np.ndarray
    own_affine: np.ndarray
    to_own: np.ndarray


@dataclass(frozen=True)
class Axis:
    """Where the ``length`` voxels of a grid lie along an axis of another: at ``scale * index + offset``."""

    length: int
    scale: float
    offset: float

    def is_identity(self, length: int) -> bool:
        """Whether the voxels are those of the other grid, which has so many."""
        return self.length == length and abs(self.scale - 1) < 1e-6 and abs(self.offset) < 1e-6

    def places(self, start: int, stop: int) -> Tensor:
        """Places of some voxels."""
        return torch.arange(start, stop, dtype=torch.float64) * self.scale + self.offset


def read_oriented(files: Sequence[str]) -> OrientedScan:
    """Read a scan, one file or one per channel, into one float32 array in RAS order.

    Raises:
        DataError: when it cannot be read.
    """
    own, shape, affine = np.empty(0), (0, 0, 0), np.eye(4)
    for number, file in enumerate(files):
        with open_volume(file) as volume:
            if number == 0:
                shape, affine = volume.shape, volume.affine
                own = np.empty((len(files) * volume.channels, *shape), dtype=np.float32)
            place = number * volume.channels * shape[2]
            for slab in volume.slabs():
                channel, start = divmod(place, shape[2])
                own[channel, :, :, start : start + slab.shape[2]] = slab
                place += slab.shape[2]
    to_ras = orientations.io_orientation(affine)
    turned = _turned(own, to_ras)
    from_ras = orientations.ornt_transform(RAS, to_ras)
    ras_affine = affine @ orientations.inv_ornt_aff(to_ras, shape)
    return OrientedScan(turned, ras_affine, affine, from_ras)


def _turned(voxels: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """[C, X, Y, Z] with its axes in another order and direction, as a view."""
    order = [int(axis) for axis in np.argsort(orientation[:, 0])]
    flips = tuple(slice(None, None, int(orientation[axis, 1])) for axis in order)
    return voxels.transpose(0, *(axis + 1 for axis in order))[(slice(None), *flips)]


def axes_between(
    shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float]
) -> tuple[list[Axis], list[Axis], np.ndarray]:
    """The grid that MONAI's Spacing gives, axis by axis.

    Args:
        shape: of the scan.
        affine: of the scan.
        spacing: in mm, wanted.

    Returns:
        Where the new grid's voxels lie in the scan, where the scan's lie in the new grid, and the new affine.

    Raises:
        DataError: when the scan's axes are not at right angles.
    """
    new = zoom_affine(affine, spacing, diagonal=False)
    length, offset = compute_shape_offset(shape, affine, new, False)
    new[:3, 3] = offset
    between = np.linalg.inv(affine) @ new
    inverse = np.linalg.inv(between)
    if np.abs(between[:3, :3] - np.diag(np.diag(between[:3, :3]))).max() > 1e-3:
        raise DataError("its axes are not at right angles, so it cannot be resampled slab by slab.")
    there = [Axis(int(n), between[i, i], between[i, 3]) for i, n in enumerate(length)]
    back = [Axis(int(n), inverse[i, i], inverse[i, 3]) for i, n in enumerate(shape)]
    return there, back, new


def resample(voxels: np.ndarray, axes: Sequence[Axis], factors: Sequence[float]) -> np.ndarray:
    """An image [C, X, Y, Z] on another grid, smoothed before where that is coarser; the same array where it is not.

    Args:
        voxels: float32; they are smoothed in place.
        axes: of the other grid.
        factors: by which each axis' voxels grow.
    """
    if all(axis.is_identity(length) for axis, length in zip(axes, voxels.shape[1:], strict=True)):
        return np.ascontiguousarray(voxels)
    sigmas = [max(factor - 1, 0) / 2 for factor in factors]
    if max(sigmas) >= NEGLIGIBLE:
        for channel, (dim, sigma) in itertools.product(voxels, enumerate(sigmas)):
            if sigma > 0:
                other = 1 if dim == 0 else 0
                for start in range(0, channel.shape[other], SLAB):
                    slab = channel[(slice(None),) * other + (slice(start, start + SLAB),)]
                    slab[:] = gaussian_filter1d(slab, sigma, axis=dim, mode="nearest")
    made = np.empty((len(voxels), *(axis.length for axis in axes)), dtype=np.float32)
    for start in range(0, axes[2].length, SLAB):
        stop = min(start + SLAB, axes[2].length)
        made[..., start:stop] = _at(voxels, axes, start, stop)
    return made


def _at(voxels: np.ndarray, axes: Sequence[Axis], start: int, stop: int) -> np.ndarray:
    places = axes[2].places(start, stop).clamp(0, voxels.shape[-1] - 1)
    first, last = int(places.min()), int(places.max().ceil())
    slab = torch.from_numpy(np.ascontiguousarray(voxels[..., first : last + 1]))
    return _interpolate(slab, [*axes[:2]], places - first).numpy()


def _interpolate(slab: Tensor, in_plane: Sequence[Axis], places: Tensor) -> Tensor:
    """Linear interpolation of [C, X, Y, n] along z at places, then along x and y; edges are continued."""
    slab = _along(slab, -1, places)
    for dim, axis in zip((-3, -2), in_plane, strict=True):
        slab = _along(slab, dim, axis.places(0, axis.length))
    return slab


def _along(slab: Tensor, dim: int, places: Tensor) -> Tensor:
    length = slab.shape[dim]
    if len(places) == length and torch.equal(places, torch.arange(length, dtype=places.dtype)):
        return slab
    places = places.clamp(0, length - 1)
    low = places.floor().long()
    high = (low + 1).clamp(max=length - 1)
    shape = [1] * slab.ndim
    shape[dim] = -1
    weight = (places - low).to(slab.dtype).reshape(shape)
    return torch.lerp(slab.index_select(dim, low), slab.index_select(dim, high), weight)


def resampled_planes(slabs: Iterator[Tensor], axes: Sequence[Axis], depth: int) -> Iterator[Tensor]:
    """Slabs [C, X, Y, n] of a grid ``depth`` planes deep, in order, as slabs of another grid, in order.

    Args:
        slabs: of any thickness.
        axes: where the other grid's voxels lie in theirs.
        depth: planes that they are together.
    """
    held, first, done = None, 0, 0  # planes at hand, the number of the first one, planes given
    for slab in slabs:
        held = slab if held is None else torch.cat([held, slab], dim=-1)
        known = first + held.shape[-1]
        while done < axes[2].length:
            stop = min(done + SLAB, axes[2].length)
            places = axes[2].places(done, stop).clamp(0, depth - 1)
            ready = int((places.ceil() < known).sum())
            if not ready:
                break
            yield _interpolate(held, axes[:2], places[:ready] - first)
            done += ready
        if done < axes[2].length:
            needed = int(axes[2].places(done, done + 1).clamp(0, depth - 1).floor())
            keep = max(0, min(needed - first, held.shape[-1] - 1))
            held, first = held[..., keep:].clone(), first + keep
