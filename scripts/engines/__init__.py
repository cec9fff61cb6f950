# SPDX-License-Identifier: Apache-2.0
"""Engines on MONAI's: a trainer with two streams, an evaluator that scores both networks and their ensemble."""

from .acceleration import choose_autocast, choose_memory_format, prepare_network, tune_gpu
from .dual_evaluator import DualEvaluator, DualKeys
from .heartbeat import Heartbeat, unwatch_processes, watch_processes
from .memory import memories, remember
from .mlflow import MLflowLog
from .phases import Phases
from .semi_supervised_trainer import SemiSupervisedTrainer, StreamKeys, TrainingEvents, named_losses
from .share_buffers import ShareBuffers
from .signals import Signals, TrainingStopped
from .tensorboard import TensorBoardLog

__all__ = [
    "DualEvaluator",
    "DualKeys",
    "Heartbeat",
    "MLflowLog",
    "Phases",
    "SemiSupervisedTrainer",
    "ShareBuffers",
    "Signals",
    "StreamKeys",
    "TensorBoardLog",
    "TrainingEvents",
    "TrainingStopped",
    "choose_autocast",
    "choose_memory_format",
    "memories",
    "named_losses",
    "prepare_network",
    "remember",
    "tune_gpu",
    "unwatch_processes",
    "watch_processes",
]
