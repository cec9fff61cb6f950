# SPDX-License-Identifier: Apache-2.0
"""What hangs on an engine's events: scores, tables, pictures, progress, alarms."""

from __future__ import annotations

from .case_metrics import CaseMetrics, segmentation_metrics, summarize

__all__ = ["CaseMetrics", "segmentation_metrics", "summarize"]
