# SPDX-License-Identifier: Apache-2.0
"""Write a segmentation completely or not at all, under its scan's name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from .atomic import save_nifti
from .locations import prediction_name


class SaveSegmentationd(SaveImaged):
    """Write ``[1, X, Y, Z]`` class numbers as ``output_dir/NAME_seg.nii.gz``, 8 bit, with the affine of the data.

    It is a ``SaveImaged``, since tools such as MONAI Label leave those out. Unlike it, it leaves no half file on
    a full disk, and names results by case: for ``CASE/mri_norm2.h5`` and ``CASE_0000.nii.gz`` by CASE.

    Args:
        keys: of the segmentations.
        output_dir: folder to write to; made where it is missing.
        allow_missing_keys: whether items may lack a key.

    Raises:
        DataError: when a file cannot be written.

    Example:
        >>> SaveSegmentationd("pred", "predictions")({"pred": MetaTensor(torch.zeros(1, 8, 8, 8))})

    Source: ours.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys, print_log=False)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            volume = item[key]
            name = prediction_name(volume.meta["filename_or_obj"])
            save_nifti(
                volume[0].numpy().astype(np.uint8), volume.affine.numpy(), self.output_dir / f"{name}_seg.nii.gz"
            )
        return item
