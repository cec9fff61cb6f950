# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised segmentation losses for volumes and images, in MONAI's style: logits [B, C, *spatial] in, scalar out.

Needs torch and monai only.
"""

from __future__ import annotations

from .cosine_consistency import CosineConsistencyLoss
from .cross_consistency_enhancement import CrossConsistencyEnhancementLoss
from .disagreement_rectification import DisagreementRectificationLoss
from .entropy_filtered_pseudo import EntropyFilteredPseudoLoss
from .entropy_filtered_pseudo_labeler import EntropyFilteredPseudoLabeler
from .prototype_bank import PrototypeBank
from .prototype_contrastive import PrototypeContrastiveLoss
from .ramps import CosineRamp, LinearRamp, SigmoidRamp
from .uncertainty_weighted_cross_pseudo import UncertaintyWeightedCrossPseudoLoss

__all__ = [
    "CosineConsistencyLoss",
    "CosineRamp",
    "CrossConsistencyEnhancementLoss",
    "DisagreementRectificationLoss",
    "EntropyFilteredPseudoLabeler",
    "EntropyFilteredPseudoLoss",
    "LinearRamp",
    "PrototypeBank",
    "PrototypeContrastiveLoss",
    "SigmoidRamp",
    "UncertaintyWeightedCrossPseudoLoss",
]
