# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised segmentation losses for volumes and images, in MONAI's style: logits [B, C, *spatial] in, scalar out.

Needs torch and monai only.
"""

from __future__ import annotations

from .consistency import (
    AffinityRectifiedLoss,
    CosineConsistencyLoss,
    CrossConsistencyEnhancementLoss,
    DisagreementLearningLoss,
    DisagreementRectificationLoss,
    EntropyFilteredPseudoLoss,
    ERDALoss,
    RectifiedPseudoSupervisionLoss,
    UncertaintyWeightedCrossPseudoLoss,
    cosine_distance,
    uncertainty_weighted_cross_pseudo,
)
from .contrastive import (
    ClassFeatures,
    ClassMemoryBank,
    GuidedContrastiveLoss,
    PrototypeBank,
    PrototypeContrastiveLoss,
    PrototypePseudoLabeler,
    VoxelContrastiveLoss,
)
from .labelers import (
    AdaptiveConfidencePseudoLabeler,
    ConfidencePseudoLabeler,
    EnsembleVotingPseudoLabels,
    EntropyFilteredPseudoLabeler,
    LargestComponent,
)
from .mixing import BoxMix, CopyPasteLoss, MixedBatch
from .running_mean import RunningMean
from .supervised import PartialDiceCELoss, PartialDiceLoss, merge_background, partial_cross_entropy
from .voxelwise import Prediction, entropy_map, full_precision, predict, reduce_voxels
from .weighting import (
    ConflictFreeGradient,
    CosineRamp,
    DifficultyWeight,
    DistributionAlignment,
    LinearRamp,
    PairUncertaintyWeight,
    SigmoidRamp,
    SoftMatchWeight,
    TemporalAgreementWeight,
)

__all__ = [
    "BoxMix",
    "CopyPasteLoss",
    "MixedBatch",
    "AdaptiveConfidencePseudoLabeler",
    "AffinityRectifiedLoss",
    "ClassFeatures",
    "ClassMemoryBank",
    "ConfidencePseudoLabeler",
    "ConflictFreeGradient",
    "cosine_distance",
    "CosineConsistencyLoss",
    "CosineRamp",
    "CrossConsistencyEnhancementLoss",
    "DifficultyWeight",
    "DisagreementLearningLoss",
    "DisagreementRectificationLoss",
    "DistributionAlignment",
    "EnsembleVotingPseudoLabels",
    "entropy_map",
    "EntropyFilteredPseudoLabeler",
    "EntropyFilteredPseudoLoss",
    "ERDALoss",
    "full_precision",
    "GuidedContrastiveLoss",
    "LargestComponent",
    "LinearRamp",
    "merge_background",
    "PairUncertaintyWeight",
    "partial_cross_entropy",
    "PartialDiceCELoss",
    "PartialDiceLoss",
    "predict",
    "Prediction",
    "PrototypeBank",
    "PrototypeContrastiveLoss",
    "PrototypePseudoLabeler",
    "RectifiedPseudoSupervisionLoss",
    "reduce_voxels",
    "RunningMean",
    "SigmoidRamp",
    "SoftMatchWeight",
    "TemporalAgreementWeight",
    "uncertainty_weighted_cross_pseudo",
    "UncertaintyWeightedCrossPseudoLoss",
    "VoxelContrastiveLoss",
]
