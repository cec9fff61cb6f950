# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised methods, from a network and two batches to named losses: one class and one JSON each."""

from .as_released import AsReleasedMethod
from .cross_pseudo_supervision import CrossPseudoSupervisionMethod
from .dual_network import DualNetworkMethod
from .method import Method
from .supervised import SupervisedMethod

__all__ = ["AsReleasedMethod", "CrossPseudoSupervisionMethod", "DualNetworkMethod", "Method", "SupervisedMethod"]
