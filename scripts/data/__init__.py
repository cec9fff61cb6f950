# SPDX-License-Identifier: Apache-2.0
"""Data: datalists, their checks, the embedded phantom, and the two streams of batches."""

from .datalist import SECTIONS, load_datalist
from .errors import DataError
from .phantom import phantom_case, phantom_dataset
from .two_streams import TwoStreams

__all__ = ["SECTIONS", "DataError", "TwoStreams", "load_datalist", "phantom_case", "phantom_dataset"]
