# SPDX-License-Identifier: Apache-2.0
"""From what the teachers predict to pseudo-labels for each network, and which voxels count, and how much.

Some make labels of the teachers' predictions; those in ``around`` and beside it protect the labels of another.
"""

from .aligned import Aligned
from .around import AdaptiveConfidence, Around, WithoutIslands
from .from_teachers import (
    CertainOverPasses,
    Confident,
    EntropyFilter,
    Labeler,
    MeanOfTeachers,
    OfBetterNetwork,
    OfEachTeacher,
    Voting,
)
from .weights import DifficultyWeights, SoftWeights

__all__ = [
    "AdaptiveConfidence",
    "Aligned",
    "Around",
    "CertainOverPasses",
    "Confident",
    "DifficultyWeights",
    "EntropyFilter",
    "Labeler",
    "MeanOfTeachers",
    "OfBetterNetwork",
    "OfEachTeacher",
    "SoftWeights",
    "Voting",
    "WithoutIslands",
]
