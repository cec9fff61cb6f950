# SPDX-License-Identifier: Apache-2.0
"""How much a voxel, a pair, a gradient or the unlabelled data counts."""

from __future__ import annotations

from .conflict_free_gradient import ConflictFreeGradient
from .difficulty_weight import DifficultyWeight
from .distribution_alignment import DistributionAlignment
from .pair_uncertainty_weight import PairUncertaintyWeight
from .ramps import CosineRamp, LinearRamp, SigmoidRamp
from .soft_match_weight import SoftMatchWeight
from .temporal_agreement_weight import TemporalAgreementWeight

__all__ = [
    "ConflictFreeGradient",
    "CosineRamp",
    "DifficultyWeight",
    "DistributionAlignment",
    "LinearRamp",
    "PairUncertaintyWeight",
    "SigmoidRamp",
    "SoftMatchWeight",
    "TemporalAgreementWeight",
]
