# SPDX-License-Identifier: Apache-2.0
"""What can be known of a segmentation without its label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.metrics import compute_dice
from monai.transforms import Transform
from torch import Tensor

from ..inference import entropy_map
from ..losses.voxelwise import plain

__all__ = ["NoteCertaintyd", "agreement", "mean_entropy"]


def agreement(a: Tensor, b: Tensor, classes: int) -> float:
    """Mean Dice of two class maps [*S] with each other, over the structures that either has; 0 if none (ours)."""
    found = [index for index in range(1, classes) if bool((a == index).any()) or bool((b == index).any())]
    if not found:
        return 0.0
    masks = [torch.stack([one == index for index in found])[None].float() for one in (a, b)]
    return float(compute_dice(*masks, include_background=True, ignore_empty=False).mean())


def mean_entropy(probabilities: Tensor, inside: Tensor) -> float:
    """Mean entropy of probabilities [C, *S], as a fraction of its maximum, where a mask [*S] is; everywhere if it is
    empty (ours).
    """
    values = entropy_map(probabilities)
    return float(values[inside].mean() if bool(inside.any()) else values.mean())


class NoteCertaintyd(Transform):
    """Notes ``agreement`` and ``entropy`` of an item, on the grid on which the networks work (ours).

    It takes the logits ``pred_a`` and ``pred_b`` and the ensemble's logarithms of probabilities ``pred`` [C, *S],
    before anything is done to them. ``agreement`` is the mean Dice of the two networks with each other (0 where neither
    finds anything), ``entropy`` the ensemble's over the voxels that either takes for a structure, as a fraction of its
    maximum.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        a, b, both = (plain(data[key]) for key in ("pred_a", "pred_b", "pred"))
        maps = a.argmax(0), b.argmax(0)
        entropy = mean_entropy(both.float().softmax(0), (maps[0] > 0) | (maps[1] > 0))
        return {**data, "agreement": agreement(*maps, classes=len(both)), "entropy": entropy}
