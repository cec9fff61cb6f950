# SPDX-License-Identifier: Apache-2.0
"""MONAI's sliding window with the argmax taken slab by slab, so that no volume of class probabilities is held."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel.orientations as orientations
import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from ...data.transforms.center_crop import CenterCropd
from ...data.transforms.field_of_view import field_of_view_scale
from ...data.transforms.regions import decode_regions
from ..uncertainty import entropy_map
from .grids import OrientedScan, axes_between, read_oriented, resample, resampled_planes

__all__ = ["StreamedResult", "segment_by_slabs"]

PLANES = 8
"""Planes whose probabilities are made at a time."""


@dataclass
class StreamedResult:
    """A segmentation.

    Attributes:
        classes: class numbers [X, Y, Z] on the scan's own grid.
        affine: of that grid.
        agreement: Dice of the two networks with each other, the mean over the structures, counted window by window: a
            voxel in several windows counts several times.
        entropy: mean entropy where the ensemble finds a structure, as a fraction of its maximum.
    """

    classes: np.ndarray
    affine: np.ndarray
    agreement: float
    entropy: float


def segment_by_slabs(
    files: Sequence[str],
    network: nn.Module,
    inferer: SlidingWindowInferer,
    intensity: Callable[[dict[str, Any]], dict[str, Any]],
    spacing: Sequence[float],
    device: torch.device | str = "cpu",
    tick: Callable[[int, int], None] = lambda done, of: None,
    regions: Mapping[str, Sequence[int]] | None = None,
    field_of_view: float | None = None,
    center_crop: Sequence[float | None] | None = None,
) -> StreamedResult:
    """Segment a scan as configs/inference.json does, with the memory of its voxels and of a few slabs (ours).

    MONAI's ``buffer_steps`` bounds the memory of a device, but still gathers the scores of all classes for the whole
    scan. Here what no further window touches is resampled to the scan's own grid and becomes class numbers at once.

    Args:
        files: the scan, one file or one per channel.
        network: an ensemble with ``members``.
        inferer: window, overlap and weighting.
        intensity: the transform of a dictionary with ``image``.
        spacing: of the networks' grid, in mm.
        device: of the network.
        tick: is told how many windows of how many are done.
        regions: class numbers of each region, by its name; default: no regions.
        field_of_view: length in mm that the longer side of a slice counts as; None or 0: voxels are as large as the
            file says.
        center_crop: middle that is looked at, in mm along each axis; None or 0: the whole scan. What lies outside is
            background.

    Raises:
        DataError: when the scan cannot be read, or its axes are not at right angles.
    """
    scan = read_oriented(files)
    shape = scan.voxels.shape[1:]
    there, back, affine = axes_between(shape, _seen_affine(scan, spacing, field_of_view), spacing)
    image = resample(scan.voxels, there, [axis.scale for axis in there])
    scan.voxels = None  # a copy less
    image = MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(affine))
    grid = image.shape[1:]
    if center_crop:
        image = CenterCropd("image", center_crop, spacing)({"image": image})["image"]
    image = intensity({"image": image})["image"].as_tensor()
    windows = _Windows(image, network, inferer, torch.device(device), tick)
    seen = windows.probabilities()
    if image.shape[1:] != grid:
        seen = _amid_background(seen, image.shape[1:], grid)
    del image
    classes = np.empty(shape, dtype=np.uint8)
    start = 0
    for planes in resampled_planes(seen, back, grid[-1]):
        found = (decode_regions(planes, regions) if regions else planes.argmax(0)).to(torch.uint8)
        classes[..., start : start + found.shape[-1]] = found.numpy()
        start += found.shape[-1]
    own = orientations.apply_orientation(classes, scan.to_own)
    return StreamedResult(own, scan.own_affine, windows.agreement(), windows.entropy())


def _seen_affine(scan: OrientedScan, spacing: Sequence[float], field_of_view: float | None) -> np.ndarray:
    if not field_of_view:
        return scan.affine
    own = np.linalg.norm(scan.affine[:3, :3], axis=0)
    return scan.affine * np.append(field_of_view_scale(scan.voxels.shape[1:], own, field_of_view, spacing), 1)


def _amid_background(slabs: Iterator[Tensor], size: Sequence[int], grid: Sequence[int]) -> Iterator[Tensor]:
    """Slabs [C, x, y, n] of the middle of a grid, which has ``size``, as slabs [C, X, Y, n] of all of it."""
    before = [length // 2 - have // 2 for length, have in zip(grid, size, strict=True)]
    x, y = (slice(start, start + have) for start, have in zip(before[:2], size[:2], strict=True))
    first = next(slabs)

    def background(depth: int) -> Tensor:
        planes = torch.zeros(len(first), *grid[:2], depth)
        planes[0] = 1
        return planes

    yield background(before[2])
    for slab in itertools.chain([first], slabs):
        planes = background(slab.shape[-1])
        planes[:, x, y] = slab
        yield planes
    yield background(grid[2] - size[2] - before[2])


class _Windows:
    """The sliding window, sorted by where along z its windows begin."""

    def __init__(
        self,
        image: Tensor,
        network: nn.Module,
        inferer: SlidingWindowInferer,
        device: torch.device,
        tick: Callable[[int, int], None],
    ) -> None:
        self.network, self.device, self.tick = network, device, tick
        self.batch = inferer.sw_batch_size
        size = image.shape[1:]
        self.roi = [int(length) for length in inferer.roi_size]
        missing = [max(length - have, 0) for length, have in zip(self.roi, size, strict=True)]
        self.before = [length // 2 for length in missing]
        self.size = size
        if any(missing):
            pad = [(half, length - half) for half, length in zip(self.before, missing, strict=True)]
            image = torch.nn.functional.pad(image, [n for ends in reversed(pad) for n in ends])
        self.image = image
        overlap = inferer.overlap if isinstance(inferer.overlap, Sequence) else [inferer.overlap] * 3
        steps = [
            length if length == have else max(int(length * (1 - part)), 1)
            for length, have, part in zip(self.roi, image.shape[1:], overlap, strict=True)
        ]
        found = dense_patch_slices(image.shape[1:], self.roi, steps)
        found.sort(key=lambda one: one[2].start)
        self.windows = [(start, list(group)) for start, group in itertools.groupby(found, key=lambda one: one[2].start)]
        self.count = len(found)
        self.weight = compute_importance_map(
            tuple(self.roi), mode=inferer.mode, sigma_scale=inferer.sigma_scale, device=device, dtype=torch.float32
        )
        self.overlaps: Tensor | float = 0.0
        self.entropies = [0.0, 0]

    def probabilities(self) -> Iterator[Tensor]:
        """Probabilities [C, X, Y, n] of all planes of the image, in order."""
        scores = weights = None
        done, edge = 0, self.before[2]
        starts = [start for start, _ in self.windows] + [self.image.shape[-1]]
        for (start, group), following in zip(self.windows, starts[1:], strict=True):
            for number in range(0, len(group), self.batch):
                chosen = group[number : number + self.batch]
                output = self._predict(torch.stack([self.image[(slice(None), *one)] for one in chosen]), chosen)
                if scores is None:
                    depth = self.roi[2]
                    scores = torch.zeros(output.shape[1], *self.image.shape[1:3], depth)
                    weights = torch.zeros(*self.image.shape[1:3], depth)
                for (x, y, _), one in zip(chosen, output, strict=True):
                    scores[:, x, y] += one
                    weights[x, y] += self.weight.cpu()
                done += len(chosen)
                self.tick(done, self.count)
            final = following - start
            for first in range(0, final, PLANES):
                last = min(first + PLANES, final)
                low, high = max(first, edge - start), min(last, edge + self.size[2] - start)
                if low < high:
                    yield self._finish(scores[..., low:high], weights[..., low:high])
            if following < self.image.shape[-1]:
                for held in (scores, weights):
                    rest = held[..., final:].clone()
                    held.zero_()
                    held[..., : rest.shape[-1]] = rest

    @torch.inference_mode()
    def _predict(self, batch: Tensor, places: Sequence[tuple[slice, ...]]) -> Tensor:
        a, b, both = self.network.members(batch.to(self.device))
        for first, second, place in zip(a.argmax(1), b.argmax(1), places, strict=True):
            own = self._without_padding(place)
            self.overlaps = self.overlaps + _overlaps(first[own], second[own], both.shape[1])
        return (both.float() * self.weight).cpu()

    def _without_padding(self, place: tuple[slice, ...]) -> tuple[slice, ...]:
        """The part of a window that is in the scan."""
        ends = zip(place, self.before, self.size, strict=True)
        return tuple(
            slice(max(one.start, half) - one.start, min(one.stop, half + length) - one.start)
            for one, half, length in ends
        )

    def _finish(self, scores: Tensor, weights: Tensor) -> Tensor:
        x, y = (slice(half, half + length) for half, length in zip(self.before[:2], self.size[:2], strict=True))
        probabilities = (scores[:, x, y] / weights[x, y]).softmax(0)
        inside = probabilities.argmax(0) > 0
        self.entropies[0] += float(entropy_map(probabilities)[inside].sum(dtype=torch.float64))
        self.entropies[1] += int(inside.sum())
        return probabilities

    def agreement(self) -> float:
        """Mean Dice of the networks with each other over the classes that either has; 0 if there is none."""
        shared, first, second = self.overlaps.T
        some = first + second > 0
        return float((2 * shared[some] / (first + second)[some]).mean()) if bool(some.any()) else 0.0

    def entropy(self) -> float:
        """Mean entropy inside of what was found; 0 where that is nothing."""
        total, count = self.entropies
        return total / count if count else 0.0


def _overlaps(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """Voxels of both, of the first and of the second of two class maps, for each structure [C - 1, 3]."""
    counts = [
        [((first == c) & (second == c)).sum(), (first == c).sum(), (second == c).sum()] for c in range(1, classes)
    ]
    return torch.tensor(counts, dtype=torch.float64)
