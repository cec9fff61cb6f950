# SPDX-License-Identifier: Apache-2.0
"""How sure a segmentation is: calibration, a predicted Dice for each scan, and which result to look at first."""

from .calibration import TEMPERATURES, NoteCalibrationd, fit_temperature
from .largest_parts import is_one_piece, learn_largest_parts
from .note import NoteCertaintyd
from .pseudo_labels import SETTINGS, MarkUncertaind, PseudoLabelDatalist
from .report import CertaintyReport, certainty_cases, write_certainty
from .review_csv import ReviewCsv, learnt_certainty

__all__ = [
    "SETTINGS",
    "TEMPERATURES",
    "CertaintyReport",
    "MarkUncertaind",
    "NoteCalibrationd",
    "NoteCertaintyd",
    "PseudoLabelDatalist",
    "ReviewCsv",
    "certainty_cases",
    "fit_temperature",
    "is_one_piece",
    "learn_largest_parts",
    "learnt_certainty",
    "write_certainty",
]
