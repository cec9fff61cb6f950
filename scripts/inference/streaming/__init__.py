# SPDX-License-Identifier: Apache-2.0
"""Scans too large for the machine's memory: read, resampled, segmented and written slab by slab."""

from .large_scans import LargeScans
from .segment import StreamedResult, segment_by_slabs

__all__ = ["LargeScans", "StreamedResult", "segment_by_slabs"]
