# SPDX-License-Identifier: Apache-2.0
"""A proposal is corrected by clicks and strokes, in seconds and without a training."""

from .task import CorrectionTask

__all__ = ["CorrectionTask"]
