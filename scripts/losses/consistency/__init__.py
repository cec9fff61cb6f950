# SPDX-License-Identifier: Apache-2.0
"""Losses on the predictions of two networks, or of a student and its teacher."""

from __future__ import annotations

from .affinity_rectified import AffinityRectifiedLoss
from .cosine_consistency import CosineConsistencyLoss, cosine_distance
from .cross_consistency_enhancement import CrossConsistencyEnhancementLoss
from .disagreement_learning import DisagreementLearningLoss
from .disagreement_rectification import DisagreementRectificationLoss
from .entropy_filtered_pseudo import EntropyFilteredPseudoLoss
from .erda import ERDALoss
from .rectified_pseudo_supervision import RectifiedPseudoSupervisionLoss
from .uncertainty_weighted_cross_pseudo import UncertaintyWeightedCrossPseudoLoss, uncertainty_weighted_cross_pseudo

__all__ = [
    "AffinityRectifiedLoss",
    "cosine_distance",
    "CosineConsistencyLoss",
    "CrossConsistencyEnhancementLoss",
    "DisagreementLearningLoss",
    "DisagreementRectificationLoss",
    "EntropyFilteredPseudoLoss",
    "ERDALoss",
    "RectifiedPseudoSupervisionLoss",
    "uncertainty_weighted_cross_pseudo",
    "UncertaintyWeightedCrossPseudoLoss",
]
