# SPDX-License-Identifier: Apache-2.0
"""From a trained model to segmentations: which scans, mirrored views, several runs, how sure, and which are alike."""

from .alike import ScanDescriptions, farthest_first
from .flips import FlipInferer
from .largest_parts import KeepLargestPartd
from .runs_ensemble import RunsEnsemble, ensemble_of_runs
from .saving import FORMATS, SaveFormatd, SaveRegionsd
from .sliding_window import WindowInferer
from .streaming import LargeScans
from .tensorrt import run_in_tensorrt
from .uncertainty import SaveUncertaintyd, disagreement_map, entropy_map, temper
from .usable import SKIPPED, UsableScans
from .weights import WeightsLoader, load_weights, read_weights

__all__ = [
    "SKIPPED",
    "FORMATS",
    "FlipInferer",
    "KeepLargestPartd",
    "LargeScans",
    "RunsEnsemble",
    "SaveFormatd",
    "SaveRegionsd",
    "SaveUncertaintyd",
    "ScanDescriptions",
    "UsableScans",
    "WindowInferer",
    "WeightsLoader",
    "disagreement_map",
    "ensemble_of_runs",
    "entropy_map",
    "farthest_first",
    "load_weights",
    "read_weights",
    "run_in_tensorrt",
    "temper",
]
