# SPDX-License-Identifier: Apache-2.0
"""Data: datalists, their checks, the embedded phantom, and the two streams of batches."""

from .check import CaseReport, DataReport, check_data, inspect_data
from .datalist import SECTIONS, load_datalist
from .errors import DataError
from .phantom import phantom_case, phantom_dataset
from .two_streams import TwoStreams
from .volumes import Volume, open_volume

__all__ = [
    "SECTIONS",
    "CaseReport",
    "DataError",
    "DataReport",
    "TwoStreams",
    "Volume",
    "check_data",
    "inspect_data",
    "load_datalist",
    "open_volume",
    "phantom_case",
    "phantom_dataset",
]
