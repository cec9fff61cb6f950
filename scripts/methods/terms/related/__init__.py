# SPDX-License-Identifier: Apache-2.0
"""Terms of the systems that this work descends from, or stands beside."""

from .affinity import Affinity
from .alternate_teaching import AlternateTeaching
from .discrepancy import Discrepancy
from .entropy_regularized_alignment import PrototypeAlignment, QueryAlignment
from .feature_perturbed import FeaturePerturbed
from .guided_contrast import GuidedContrast
from .rectified_views import RectifiedViews
from .temporal_agreement import TemporalAgreement
from .uncertain_pairs import UncertainPairs
from .voxel_contrast import VoxelContrast
from .weak_to_strong import WeakToStrong

__all__ = [
    "Affinity",
    "AlternateTeaching",
    "Discrepancy",
    "FeaturePerturbed",
    "GuidedContrast",
    "PrototypeAlignment",
    "QueryAlignment",
    "RectifiedViews",
    "TemporalAgreement",
    "UncertainPairs",
    "VoxelContrast",
    "WeakToStrong",
]
