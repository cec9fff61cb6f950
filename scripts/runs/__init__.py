# SPDX-License-Identifier: Apache-2.0
"""What a training leaves in its folder, and how it goes on from there."""

from .in_config import finish_run, latest_run
from .initial_weights import InitialWeights
from .inputs import compare_inputs
from .known_keys import refuse_unknown_keys
from .log import RunLog
from .run import Run
from .start import run_folder, start_run
from .state import RunState
from .stopped import finish_stopped_run, save_model_so_far

__all__ = [
    "InitialWeights",
    "Run",
    "RunLog",
    "RunState",
    "compare_inputs",
    "finish_run",
    "finish_stopped_run",
    "latest_run",
    "refuse_unknown_keys",
    "run_folder",
    "start_run",
    "save_model_so_far",
]
