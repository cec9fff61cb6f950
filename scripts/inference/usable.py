# SPDX-License-Identifier: Apache-2.0
"""One bad scan must not keep the others from their segmentation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.datalist.check import check_data, inspect_data
from ..data.io.formats.dicom import is_dicom
from ..errors import DataError
from .saving.dicom_seg import why_no_dicom_seg

__all__ = ["SKIPPED", "UsableScans"]

SKIPPED = 3
"""Exit code of a prediction that left scans out."""


class UsableScans:
    """The scans of a list that can be segmented, each read once to find out (ours).

    Args:
        data: ``[{"image": path}]``.
        labels: value to name.
        channels: that the network takes.
        skip: whether to leave out what cannot be used; if not, it is an error.
        spatial_dims: of the networks, 2 or 3.
        form: of the results. For ``dicom``, a DICOM series that DICOM SEG cannot refer to cannot be used.

    Attributes:
        scans: those that can be used.
        reports: what was found of each of them.
        problems: what is wrong with the others.

    Raises:
        DataError: when a scan cannot be used and none may be skipped, or when none can be used.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        labels: Mapping[int | str, str],
        channels: int,
        skip: bool = False,
        spatial_dims: int = 3,
        form: str = "nifti",
    ) -> None:
        datalist = {"labels": labels, "unlabeled": data, "spatial_dims": spatial_dims}
        cases = (inspect_data if skip else check_data)(datalist, channels=channels).cases
        if form == "dicom":
            names = {int(value): name for value, name in labels.items()}
            for scan, case in zip(data, cases, strict=True):
                series = scan["image"]
                if not case.errors and isinstance(series, str) and is_dicom(series):
                    case.errors += [reason] if (reason := why_no_dicom_seg(series, names)) else []
        self.problems = [problem for case in cases for problem in case.errors]
        self.scans = [scan for scan, case in zip(data, cases, strict=True) if not case.errors]
        self.reports = [case for case in cases if not case.errors]
        if self.problems and not (skip and self.scans):
            raise DataError(self.problems)

    def exit_if_skipped(self) -> None:
        """After the others are done: name the scans that were left out and end the process with ``SKIPPED``."""
        if self.problems:
            sys.stderr.write(f"Error: left out: {DataError(self.problems)}\n")
            sys.exit(SKIPPED)
