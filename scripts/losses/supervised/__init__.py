# SPDX-License-Identifier: Apache-2.0
"""Losses on labels of which a part is missing: voxels, or classes."""

from .partial_dice import PartialDiceLoss
from .partial_dice_ce import PartialDiceCELoss
from .partial_labels import checked_classes, merge_background, partial_cross_entropy

__all__ = ["PartialDiceCELoss", "PartialDiceLoss", "checked_classes", "merge_background", "partial_cross_entropy"]
