# SPDX-License-Identifier: Apache-2.0
"""The crop of the semi-supervised benchmarks: around the ground truth, which a new scan does not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def crop_to_label(
    image: np.ndarray, label: np.ndarray, patch_size: Sequence[int], margins: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Cut image and label to a box around the labelled structure along x and y; z keeps its length.

    An oracle: it tells the network where the structure is, in test scans too. For figures that compare with published
    ones, never for scans of one's own.

    Args:
        image: voxels ``[X, Y, Z]``.
        label: of the same shape, with at least one foreground voxel.
        patch_size: the published training patch; where the structure is shorter, half of what is missing is added to
            either side.
        margins: voxels to keep (before, behind) the structure, along x and along y.

    Returns:
        Image and label of the box.

    Source: Yu et al., UA-MT, MICCAI 2019, as released: the box ends ``behind`` voxels after the last foreground voxel's
    own index, that is ``behind - 1`` voxels of background.
    """
    box = []
    for axis, (before, behind) in enumerate(margins):
        inside = np.flatnonzero(label.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = int(inside[0]), int(inside[-1])
        missing = max(patch_size[axis] - (last - first), 0) // 2
        box.append(slice(max(first - before - missing, 0), min(last + behind + missing, label.shape[axis])))
    return image[tuple(box)], label[tuple(box)]
