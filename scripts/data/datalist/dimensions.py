# SPDX-License-Identifier: Apache-2.0
"""Are these 2D images, or 3D scans? Both together are refused."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel

from ...errors import DataError
from ..io.formats.dicom import dicom_volume, is_dicom
from ..io.formats.names import is_planar
from ..io.volumes import UNREADABLE

__all__ = ["spatial_dims_of"]


def spatial_dims_of(images: Sequence[str]) -> int:
    """2 where every image is of one slice, else 3 (ours).

    PNG, TIFF, JPEG and BMP are; of NIfTI and DICOM the headers say so. Single slices among volumes are 3D scans.

    Raises:
        DataError: when some are 2D images by their format and others are volumes.
    """
    planar = next((image for image in images if is_planar(image)), None)
    volume = next((image for image in images if not _is_one_slice(image)), None)
    if planar is not None and volume is not None:
        raise DataError(
            f"{planar}: a 2D image, but {volume} is a 3D scan. Networks are for one of them: keep both kinds in "
            "folders of their own."
        )
    return 3 if volume is not None else 2


def _is_one_slice(image: str) -> bool:
    if is_planar(image):
        return True
    try:
        if image.lower().endswith((".nii", ".nii.gz")):
            shape = nibabel.load(image).shape
            return len(shape) == 2 or (len(shape) > 2 and shape[2] == 1)
        return is_dicom(image) and dicom_volume(image).shape[2] == 1
    except UNREADABLE:  # the check will say what is wrong with it
        return False
