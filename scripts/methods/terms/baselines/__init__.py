# SPDX-License-Identifier: Apache-2.0
"""The terms of the baselines, and of the code that was released with the paper."""

from .consistency import MeanSquareConsistency
from .hard_cross_pseudo import HardCrossPseudo
from .mutual_correction import MutualCorrection
from .released_consistency import ReleasedConsistency

__all__ = ["HardCrossPseudo", "MeanSquareConsistency", "MutualCorrection", "ReleasedConsistency"]
