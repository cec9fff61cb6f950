# SPDX-License-Identifier: Apache-2.0
"""The models of a server: which there are, which is in use, and which of two is better."""

from .model import SHIPPED, Model, all_models, drop_old_models, find_model, model_in_use, use_model
from .predictor import Predictor, save_on_scan
from .quality import mean_dice
from .verdict import Verdict, read_datalist, read_verdicts, settle_leftovers, settle_run, settle_stopped

__all__ = [
    "SHIPPED",
    "Model",
    "Predictor",
    "Verdict",
    "all_models",
    "drop_old_models",
    "find_model",
    "mean_dice",
    "model_in_use",
    "read_datalist",
    "read_verdicts",
    "save_on_scan",
    "settle_leftovers",
    "settle_run",
    "settle_stopped",
    "use_model",
]
