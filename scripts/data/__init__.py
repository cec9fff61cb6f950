# SPDX-License-Identifier: Apache-2.0
"""Data: datalists, their checks, the embedded phantom, and the two streams of batches."""

from .anti_alias import AntiAliasd
from .brief_errors import report_data_errors_briefly
from .cases import Case, CaseCollection, collect_cases
from .check import CaseReport, DataReport, check_data, inspect_data
from .convert import convert_scans
from .data_fingerprint import Fingerprint, fingerprint
from .datalist import SECTIONS, load_datalist
from .decathlon import prepare_decathlon
from .errors import DataError
from .locations import (
    check_patch_size,
    claim_folder,
    find_datalist,
    find_images,
    find_weights,
    prediction_name,
)
from .normalize_by_modality import NormalizeByModalityd
from .phantom import phantom_case, phantom_dataset
from .prepare import prepare_release
from .readers import H5Reader, ThreadSafeNibabelReader
from .save_segmentation import SaveSegmentationd
from .split import split_cases, write_datalist
from .two_streams import TwoStreams
from .volumes import Volume, open_volume

__all__ = [
    "SECTIONS",
    "AntiAliasd",
    "Case",
    "CaseCollection",
    "CaseReport",
    "DataError",
    "DataReport",
    "Fingerprint",
    "H5Reader",
    "NormalizeByModalityd",
    "SaveSegmentationd",
    "ThreadSafeNibabelReader",
    "TwoStreams",
    "Volume",
    "check_data",
    "check_patch_size",
    "claim_folder",
    "collect_cases",
    "convert_scans",
    "find_datalist",
    "find_images",
    "find_weights",
    "fingerprint",
    "inspect_data",
    "load_datalist",
    "open_volume",
    "phantom_case",
    "phantom_dataset",
    "prediction_name",
    "prepare_decathlon",
    "prepare_release",
    "report_data_errors_briefly",
    "split_cases",
    "write_datalist",
]
