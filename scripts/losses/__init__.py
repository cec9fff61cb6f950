# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised segmentation losses for volumes and images, in MONAI's style: logits [B, C, *spatial] in, scalar out.

Needs torch and monai only.
"""

from __future__ import annotations

from .affinity_rectified import AffinityRectifiedLoss
from .class_memory_bank import ClassMemoryBank
from .conflict_free_gradient import ConflictFreeGradient
from .cosine_consistency import CosineConsistencyLoss
from .cross_consistency_enhancement import CrossConsistencyEnhancementLoss
from .disagreement_rectification import DisagreementRectificationLoss
from .ensemble_voting import EnsembleVotingPseudoLabels
from .entropy_filtered_pseudo import EntropyFilteredPseudoLoss
from .entropy_filtered_pseudo_labeler import EntropyFilteredPseudoLabeler
from .erda import ERDALoss
from .guided_contrastive import GuidedContrastiveLoss
from .pair_uncertainty_weight import PairUncertaintyWeight
from .prototype_bank import PrototypeBank
from .prototype_contrastive import PrototypeContrastiveLoss
from .prototype_pseudo_labeler import PrototypePseudoLabeler
from .ramps import CosineRamp, LinearRamp, SigmoidRamp
from .rectified_pseudo_supervision import RectifiedPseudoSupervisionLoss
from .temporal_agreement_weight import TemporalAgreementWeight
from .uncertainty_weighted_cross_pseudo import UncertaintyWeightedCrossPseudoLoss
from .voxel_contrastive import VoxelContrastiveLoss

__all__ = [
    "AffinityRectifiedLoss",
    "ClassMemoryBank",
    "ConflictFreeGradient",
    "CosineConsistencyLoss",
    "CosineRamp",
    "CrossConsistencyEnhancementLoss",
    "DisagreementRectificationLoss",
    "EnsembleVotingPseudoLabels",
    "EntropyFilteredPseudoLabeler",
    "EntropyFilteredPseudoLoss",
    "ERDALoss",
    "GuidedContrastiveLoss",
    "LinearRamp",
    "PairUncertaintyWeight",
    "PrototypeBank",
    "PrototypeContrastiveLoss",
    "PrototypePseudoLabeler",
    "RectifiedPseudoSupervisionLoss",
    "SigmoidRamp",
    "TemporalAgreementWeight",
    "UncertaintyWeightedCrossPseudoLoss",
    "VoxelContrastiveLoss",
]
