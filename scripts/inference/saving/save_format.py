# SPDX-License-Identifier: Apache-2.0
"""Which file a segmentation becomes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from ...data.io.formats.dicom import is_dicom
from ...data.io.formats.names import prediction_name
from ...data.transforms.plane import volume_of_plane
from ...data.transforms.save_segmentation import SaveSegmentationd
from ...errors import DataError
from .dicom_seg import find_highdicom, save_dicom_seg
from .nrrd import save_seg_nrrd

__all__ = ["FORMATS", "SaveFormatd"]

FORMATS = {"nifti": "_seg.nii.gz", "dicom": "_seg.dcm", "nrrd": ".seg.nrrd"}
"""{name: what follows the scan's name}."""


class SaveFormatd(SaveImaged):
    """Write ``[1, *S]`` class numbers as DICOM SEG or ``.seg.nrrd``, with the names of the classes (ours).

    It is a ``SaveImaged``, since tools such as MONAI Label leave those out. A file that is there is never replaced.

    Args:
        keys: of the segmentations.
        output_dir: folder to write to; made where it is missing.
        form: ``nifti``; ``dicom``, for scans that are DICOM, where others become NIfTI; ``nrrd``.
        labels: {class number: name}.
        allow_missing_keys: whether items may lack a key.
        values: what NIfTI files hold in the place of class numbers, as in ``SaveSegmentationd``; the other formats name
            their segments.

    Raises:
        DataError: when the format is unknown or its package missing, or a file is there already or cannot be written.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        form: str,
        labels: Mapping[int | str, str],
        allow_missing_keys: bool = False,
        values: Sequence[float] | None = None,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys, print_log=False)
        if form not in FORMATS:
            raise DataError(f"--format {form}: must be one of {', '.join(FORMATS)}.")
        if form == "dicom":
            find_highdicom()  # here, before the first scan has been segmented for nothing
        self.output_dir = Path(output_dir)
        self.form = form
        self.labels = {int(value): name for value, name in labels.items()}
        self.nifti = SaveSegmentationd(keys, output_dir, allow_missing_keys, values=values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            volume = item[key]
            scan = volume.meta["filename_or_obj"]
            form = self.form if self.form != "dicom" or is_dicom(scan) else "nifti"
            if form == "nifti":
                self.nifti({key: volume})
                continue
            path = self.output_dir / f"{prediction_name(scan)}{FORMATS[form]}"
            if path.exists():
                raise DataError(f"{path}: is there already. Name another folder for the results.")
            classes, affine = volume_of_plane(volume)
            voxels = classes.astype(np.uint8)
            if form == "dicom":
                save_dicom_seg(voxels, path, scan, self.labels)
            else:
                save_seg_nrrd(voxels, affine, path, self.labels)
        return item
