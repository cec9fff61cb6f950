# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a run: scores, tables, pictures, progress, alarms."""

from .alarms import CollapseAlarm, CollapseError, DriftAlarm
from .case_metrics import CaseMetrics, scores_summary, segmentation_metrics, summarize, write_scores
from .console import TrainingConsole
from .html import write_report
from .pictures import CasePictures, TrainingCurves, plot_training_curves
from .results import ResultsReport, report_results, results_markdown, results_table
from .review import ReviewOrder
from .slices import WorstSlices

__all__ = [
    "CaseMetrics",
    "CasePictures",
    "CollapseAlarm",
    "CollapseError",
    "DriftAlarm",
    "ResultsReport",
    "ReviewOrder",
    "TrainingConsole",
    "TrainingCurves",
    "WorstSlices",
    "plot_training_curves",
    "report_results",
    "results_markdown",
    "results_table",
    "scores_summary",
    "segmentation_metrics",
    "summarize",
    "write_report",
    "write_scores",
]
