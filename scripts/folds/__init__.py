# SPDX-License-Identifier: Apache-2.0
"""Cross-validation over few labelled scans: which scans each fold holds out, and the score over all of them."""

from .plan import note_grid, rotate, start_folds
from .scores import pool_scores

__all__ = ["note_grid", "pool_scores", "rotate", "start_folds"]
