# SPDX-License-Identifier: Apache-2.0
"""Terms that need no labels and no predictions: a first phase on the unlabelled scans alone."""

from .masked_reconstruction import MaskedReconstruction
from .self_supervised_contrast import SelfSupervisedContrast

__all__ = ["MaskedReconstruction", "SelfSupervisedContrast"]
