# SPDX-License-Identifier: Apache-2.0
"""Segmentations for programs that want other files than one NIfTI: DICOM SEG, NRRD with names, a mask a region."""

from .dicom_seg import save_dicom_seg
from .nrrd import save_seg_nrrd
from .save_format import FORMATS, SaveFormatd
from .save_regions import SaveRegionsd

__all__ = ["FORMATS", "SaveFormatd", "SaveRegionsd", "save_dicom_seg", "save_seg_nrrd"]
