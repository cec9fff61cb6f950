# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised methods, from a network and two batches to named losses: a list of terms, one JSON each."""

from . import terms
from .conflict_free import ConflictFree
from .method import Method
from .pseudo_labelers import (
    AdaptiveConfidence,
    Aligned,
    CertainOverPasses,
    Confident,
    DifficultyWeights,
    EntropyFilter,
    Labeler,
    MeanOfTeachers,
    OfBetterNetwork,
    OfEachTeacher,
    SoftWeights,
    Voting,
    WithoutIslands,
)
from .step import WEAK_VIEW, Follower, Pair, Prediction, PseudoLabels, Step, View
from .teachers import AverageTeacher, CrossTeacher, OneTeacher, SelfTeacher, Teacher
from .terms.views import CutMix, StrongView

__all__ = [
    "WEAK_VIEW",
    "AdaptiveConfidence",
    "Aligned",
    "AverageTeacher",
    "CertainOverPasses",
    "Confident",
    "ConflictFree",
    "CrossTeacher",
    "CutMix",
    "DifficultyWeights",
    "EntropyFilter",
    "Follower",
    "Labeler",
    "MeanOfTeachers",
    "Method",
    "OfBetterNetwork",
    "OfEachTeacher",
    "OneTeacher",
    "Pair",
    "Prediction",
    "PseudoLabels",
    "SelfTeacher",
    "SoftWeights",
    "Step",
    "StrongView",
    "Teacher",
    "View",
    "Voting",
    "WithoutIslands",
    "terms",
]
