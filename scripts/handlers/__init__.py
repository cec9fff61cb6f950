# SPDX-License-Identifier: Apache-2.0
"""What hangs on an engine's events: scores, tables, pictures, progress, alarms."""

from __future__ import annotations

from .case_metrics import CaseMetrics, segmentation_metrics, summarize
from .collapse import CollapseAlarm, CollapseError
from .console import TrainingConsole
from .initial_weights import InitialWeights
from .pictures import CasePictures, TrainingCurves, plot_training_curves
from .results import ResultsReport, report_results, results_markdown, results_table
from .run_folder import finish_run, latest_run, run_folder
from .run_log import RunLog
from .run_state import RunState
from .share_buffers import ShareBuffers

__all__ = [
    "CaseMetrics",
    "CasePictures",
    "CollapseAlarm",
    "CollapseError",
    "InitialWeights",
    "ResultsReport",
    "RunLog",
    "RunState",
    "ShareBuffers",
    "TrainingConsole",
    "TrainingCurves",
    "plot_training_curves",
    "finish_run",
    "latest_run",
    "report_results",
    "results_markdown",
    "results_table",
    "run_folder",
    "segmentation_metrics",
    "summarize",
]
