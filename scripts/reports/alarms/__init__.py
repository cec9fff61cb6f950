# SPDX-License-Identifier: Apache-2.0
"""What tells that a training goes wrong before its end."""

from .collapse import CollapseAlarm, CollapseError
from .drift import DriftAlarm

__all__ = ["CollapseAlarm", "CollapseError", "DriftAlarm"]
