# SPDX-License-Identifier: Apache-2.0
"""What is learnt of features: losses, the memories they compare with, labels by the nearest prototype."""

from __future__ import annotations

from .class_memory_bank import ClassMemoryBank
from .guided_contrastive import GuidedContrastiveLoss
from .prototype_bank import PrototypeBank
from .prototype_contrastive import ClassFeatures, PrototypeContrastiveLoss
from .prototype_pseudo_labeler import PrototypePseudoLabeler
from .voxel_contrastive import VoxelContrastiveLoss

__all__ = [
    "ClassFeatures",
    "ClassMemoryBank",
    "GuidedContrastiveLoss",
    "PrototypeBank",
    "PrototypeContrastiveLoss",
    "PrototypePseudoLabeler",
    "VoxelContrastiveLoss",
]
