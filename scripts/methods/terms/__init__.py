# SPDX-License-Identifier: Apache-2.0
"""The terms of which methods are made, one file each; those of related systems are in ``related``."""

from .baselines import HardCrossPseudo, MeanSquareConsistency, MutualCorrection, ReleasedConsistency
from .contrastive import Contrastive
from .copy_paste import CopyPaste
from .cosine import Cosine
from .cross_pseudo import CrossPseudo
from .cut_mix_teaching import CutMixTeaching
from .entropy_filtered import EntropyFiltered
from .labeled_copy_paste import LabeledCopyPaste
from .mixed_teaching import MixedTeaching
from .pretraining import MaskedReconstruction, SelfSupervisedContrast
from .rectification import Rectification
from .related import (
    Affinity,
    AlternateTeaching,
    Discrepancy,
    FeaturePerturbed,
    GuidedContrast,
    PrototypeAlignment,
    QueryAlignment,
    RectifiedViews,
    TemporalAgreement,
    UncertainPairs,
    VoxelContrast,
    WeakToStrong,
)
from .supervised import Supervised
from .term import Term

__all__ = [
    "Affinity",
    "AlternateTeaching",
    "Contrastive",
    "CopyPaste",
    "Cosine",
    "CrossPseudo",
    "CutMixTeaching",
    "Discrepancy",
    "EntropyFiltered",
    "FeaturePerturbed",
    "GuidedContrast",
    "HardCrossPseudo",
    "LabeledCopyPaste",
    "MaskedReconstruction",
    "MeanSquareConsistency",
    "MixedTeaching",
    "MutualCorrection",
    "PrototypeAlignment",
    "QueryAlignment",
    "Rectification",
    "RectifiedViews",
    "ReleasedConsistency",
    "SelfSupervisedContrast",
    "Supervised",
    "TemporalAgreement",
    "Term",
    "UncertainPairs",
    "VoxelContrast",
    "WeakToStrong",
]
