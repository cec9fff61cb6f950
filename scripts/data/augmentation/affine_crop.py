# SPDX-License-Identifier: Apache-2.0
"""A random crop, turned and scaled, in one resampling from the whole scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, SequenceStr
from monai.data.utils import get_random_patch
from monai.transforms import MapTransform, RandAffineGrid, RandomizableTransform
from monai.transforms.utils import generate_label_classes_crop_centers
from monai.utils import GridSampleMode, ensure_tuple_rep, look_up_option

from .class_counts import COUNTS, ClassVoxels
from .sampling import sample_linear, sample_nearest

__all__ = ["RandAffineCropd", "rotation_range"]

THICK = 3.0
"""From this ratio of two axes on, voxels or crop, nothing is turned from one into the other (nnU-Net's threshold)."""


def rotation_range(angle: float, spacing: Sequence[float], patch_size: Sequence[int]) -> list[float]:
    """Largest angle about each axis, for ``RandAffineGrid``: none that would turn the image plane out of thick slices.

    A rotation counts in voxels. By 0.35 about an axis of the image plane a crop of 128 x 128 x 8 voxels would reach 44
    slices up and down, of which a scan has ten: all but a strip of it would lie outside.

    Args:
        angle: in radians.
        spacing: of the voxels, in mm.
        patch_size: of the crop, in voxels.

    Returns:
        ``angle`` or 0 for each axis, one angle in 2D.

    Example:
        >>> rotation_range(0.35, [1.5, 1.5, 10.0], [128, 128, 8])
        [0.0, 0.0, 0.35]

    Source: the threshold and its use on crops are nnU-Net's (Isensee et al., Nature Methods 2021, anisotropic images);
    that on voxels is ours.
    """
    if len(patch_size) == 2:
        return [angle]
    planes = ((1, 2), (0, 2), (0, 1))
    ratios = [max(size[i] / size[j], size[j] / size[i]) for i, j in planes for size in (spacing, patch_size)]
    return [angle if max(ratios[2 * axis : 2 * axis + 2]) <= THICK else 0.0 for axis in range(3)]


class RandAffineCropd(RandomizableTransform, MapTransform):
    """Crop at a random place and, with probability ``prob``, turn and scale about the crop's centre.

    As MONAI's ``RandCropByLabelClassesd`` or ``RandSpatialCropd`` and then ``RandAffined``, with places and angles
    drawn as there, but the turned crop shows the scan beyond the crop's border, where theirs repeats the border's
    voxels; only beyond the scan's own border they are repeated. Each voxel is interpolated once, in float32.

    Args:
        keys: images and labels [C, *S], all of one shape, no smaller than the crop.
        spatial_size: of the crop, voxels along each axis.
        affine: MONAI's ``RandAffineGrid``, which draws angles and scales.
        prob: how often it does.
        mode: ``bilinear`` or ``nearest``, for each key.
        label_key: the label [1, *S] of which a random voxel of a random class becomes the crop's centre, with the
            counts of :class:`~.class_counts.ClassCountsd` in the same item; None: every place is as likely.
        allow_missing_keys: whether items may lack a key.

    Raises:
        ValueError: when a mode is another.

    Source: ours.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        affine: RandAffineGrid,
        prob: float = 1.0,
        mode: SequenceStr = GridSampleMode.BILINEAR,
        label_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.spatial_size = tuple(spatial_size)
        self.affine = affine
        samplers = {GridSampleMode.BILINEAR: sample_linear, GridSampleMode.NEAREST: sample_nearest}
        self.samplers = [look_up_option(one, samplers) for one in ensure_tuple_rep(mode, len(self.keys))]
        self.label_key = label_key

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandAffineCropd:
        super().set_random_state(seed, state)
        self.affine.set_random_state(state=self.R)  # one stream: whether to turn must not say how far
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        shape = item[self.first_key(item)].shape[1:]
        box = self._box(item, shape)
        self.randomize(None)
        if self._do_transform:
            self.affine(self.spatial_size, lazy=True)
            dims = len(shape)
            matrix = self.affine.get_transformation_matrix()[:dims, :dims]
            centre = [(side.start + side.stop - 1) / 2 for side in box]
        for key, sampler in self.key_iterator(item, self.samplers):
            whole = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            item[key] = (
                sampler(whole, matrix, centre, self.spatial_size)
                if self._do_transform
                else whole[(slice(None), *box)].clone(memory_format=torch.contiguous_format)
            )
        return item

    def _box(self, item: dict[Hashable, Any], shape: Sequence[int]) -> tuple[slice, ...]:
        """Where to crop; takes the counts out of the item."""
        if self.label_key is None:
            return get_random_patch(shape, self.spatial_size, self.R)
        label = item[self.label_key][0]
        voxels = [ClassVoxels(label, number, counts) for number, counts in enumerate(item.pop(COUNTS))]
        ((*centre,),) = generate_label_classes_crop_centers(
            self.spatial_size, 1, shape, voxels, rand_state=self.R, warn=False
        )
        starts = [int(place) - side // 2 for place, side in zip(centre, self.spatial_size, strict=True)]
        return tuple(slice(start, start + side) for start, side in zip(starts, self.spatial_size, strict=True))
