# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised methods, from a network and two batches to named losses: one class and one JSON each."""

from .as_released import AsReleasedMethod
from .bidirectional_copy_paste import BidirectionalCopyPasteMethod
from .copy_paste import CopyPaste, CopyPasteLoss, MixedBatch
from .cross_pseudo_supervision import CrossPseudoSupervisionMethod
from .dual_network import DualNetworkMethod
from .mean_teacher import MeanTeacherMethod, UncertaintyAwareMeanTeacherMethod
from .method import WEAK_VIEW, Method
from .mutual_correction import MutualCorrectionMethod
from .supervised import SupervisedMethod

__all__ = [
    "WEAK_VIEW",
    "AsReleasedMethod",
    "BidirectionalCopyPasteMethod",
    "CopyPaste",
    "CopyPasteLoss",
    "CrossPseudoSupervisionMethod",
    "DualNetworkMethod",
    "MeanTeacherMethod",
    "Method",
    "MixedBatch",
    "MutualCorrectionMethod",
    "SupervisedMethod",
    "UncertaintyAwareMeanTeacherMethod",
]
