# SPDX-License-Identifier: Apache-2.0
"""Pseudo-labels and which voxels of them are reliable."""

from __future__ import annotations

from .adaptive_confidence_pseudo_labeler import AdaptiveConfidencePseudoLabeler
from .confidence_pseudo_labeler import ConfidencePseudoLabeler
from .ensemble_voting import EnsembleVotingPseudoLabels
from .entropy_filtered_pseudo_labeler import EntropyFilteredPseudoLabeler
from .largest_component import LargestComponent

__all__ = [
    "AdaptiveConfidencePseudoLabeler",
    "ConfidencePseudoLabeler",
    "EnsembleVotingPseudoLabels",
    "EntropyFilteredPseudoLabeler",
    "LargestComponent",
]
