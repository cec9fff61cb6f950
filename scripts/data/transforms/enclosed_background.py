# SPDX-License-Identifier: Apache-2.0
"""What a closed stroke of background says of all that lies outside it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from ...annotation import IGNORED

__all__ = ["EnclosedBackgroundd"]

logger = logging.getLogger(__name__)

_ACROSS_CORNERS = np.ones((3, 3), dtype=bool)


class EnclosedBackgroundd(MapTransform):
    """Make background of the undrawn voxels that strokes of background shut out from all that is drawn.

    Who scribbles draws the background as a ring around the structures. In a slice where that ring is closed, the voxels
    that cannot be reached from the strokes of the other classes without crossing it are background, though nobody has
    drawn them. As strokes fill a part of the inside only, as large a part of the outside is taken, at random, so that
    background does not outweigh the classes. Where the ring is open, beyond small gaps, or strokes of classes lie on
    both sides of it, nothing is concluded; nor where a line is drawn from border to border, as in planes that cut
    slices which were labelled whole. A slice in which one structure is drawn and another, outside the ring, is not,
    would be taken wrongly; then leave this transform out.

    Slices lie across the axis along which voxels are longest; of equal ones, the last.

    Args:
        keys: of the labels [1, X, Y, Z] or [1, X, Y], with :data:`~...annotation.IGNORED` where nobody has drawn.
        gap: a ring's gaps of up to twice this many voxels are closed; the fewest that do are taken in each slice.
        allow_missing_keys: whether items may lack a key.

    Example:
        >>> label = torch.full((1, 5, 5), -1)
        >>> label[0, 1:4, 1:4] = 0
        >>> label[0, 2, 2] = 1
        >>> EnclosedBackgroundd("label")({"label": label})["label"].unique().tolist()
        [0, 1]

    Source: ours.
    """

    def __init__(self, keys: KeysCollection, gap: int = 3, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.gap = gap

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._concluded(item[key])
        return item

    def _concluded(self, label: torch.Tensor) -> torch.Tensor:
        drawn = torch.as_tensor(label).as_subclass(torch.Tensor)[0].cpu().numpy()
        slices = [drawn] if drawn.ndim == 2 else list(np.moveaxis(drawn, _across(label), 0))
        generator = np.random.default_rng(0)
        outside = [shut_out(one, self.gap, generator) for one in slices]
        closed = sum(1 for one in outside if one is not None)
        with_strokes = sum(1 for one in slices if (one > 0).any())
        name = label.meta.get("filename_or_obj", "a label") if isinstance(label, MetaTensor) else "a label"
        logger.info(
            f"{name}: strokes of background close around what is drawn in {closed} of {with_strokes} slices with "
            "strokes; what lies outside them is background: as large a part of it as strokes fill of the inside."
        )
        masks = [
            np.zeros(plane.shape, dtype=bool) if found is None else found
            for plane, found in zip(slices, outside, strict=True)
        ]
        mask = masks[0] if drawn.ndim == 2 else np.moveaxis(np.stack(masks), 0, _across(label))
        return label.masked_fill(torch.from_numpy(np.ascontiguousarray(mask)).to(label.device)[None], 0)


def shut_out(drawn: np.ndarray, gap: int, generator: np.random.Generator | None = None) -> np.ndarray | None:
    """Undrawn voxels outside a slice's ring of background; None where it has none that is closed (ours).

    Args:
        drawn: classes [X, Y], :data:`~...annotation.IGNORED` where nobody has drawn.
        gap: how far strokes may be made wider to close the ring, in voxels.
        generator: draws as large a part of them as strokes of classes fill of the inside; None: all of them.

    Returns:
        bool [X, Y], or None.
    """
    background, inside, undrawn = drawn == 0, drawn > 0, drawn == IGNORED
    if not (background.any() and inside.any() and undrawn.any()):
        return None
    if not (undrawn.any(0).all() and undrawn.any(1).all()):
        return None  # a line from border to border is no stroke: this plane cuts slices that were labelled whole
    strokes, count = ndimage.label(inside, _ACROSS_CORNERS)
    for width in range(gap + 1):
        ring = _wider(background, width)
        reached = ndimage.binary_propagation(inside & ~ring, mask=~ring)
        if not _touches_border(reached) and len(np.unique(strokes[reached & inside])) == count:
            within = _wider(reached | inside, width + 1)  # as far as the true stroke, which had been widened
            outside = undrawn & ~within
            share = inside.sum() / (within & ~background).sum()
            return outside if generator is None else outside & (generator.random(drawn.shape) < share)
    return None


def _touches_border(mask: np.ndarray) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _wider(mask: np.ndarray, voxels: int) -> np.ndarray:
    return ndimage.binary_dilation(mask, _ACROSS_CORNERS, iterations=voxels) if voxels else mask


def _across(label: torch.Tensor) -> int:
    """Axis of a volume that its slices lie across."""
    spacing = label.pixdim.tolist() if isinstance(label, MetaTensor) else [1.0] * 3
    return max(range(3), key=lambda axis: (round(spacing[axis], 3), axis))
