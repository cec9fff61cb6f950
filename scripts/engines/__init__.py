# SPDX-License-Identifier: Apache-2.0
"""Engines on MONAI's: a trainer with two streams, an evaluator that scores both networks and their ensemble."""

from .dual_evaluator import DualEvaluator, DualKeys
from .semi_supervised_trainer import SemiSupervisedTrainer, StreamKeys, named_losses

__all__ = ["DualEvaluator", "DualKeys", "SemiSupervisedTrainer", "StreamKeys", "named_losses"]
