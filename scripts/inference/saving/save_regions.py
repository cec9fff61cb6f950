# SPDX-License-Identifier: Apache-2.0
"""A mask for each region, since regions may overlap."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from ...data.io.formats.names import prediction_name
from ...data.io.formats.nifti import MARK, save_nifti
from ...data.transforms.plane import volume_of_plane
from ...errors import DataError

__all__ = ["SaveRegionsd"]


class SaveRegionsd(SaveImaged):
    """Write ``output_dir/REGION/NAME_seg.nii.gz``, 1 in the region, 8 bit, with the geometry of the scan (ours).

    It is a ``SaveImaged``, since tools such as MONAI Label leave those out. In the name of a folder a region's blanks
    and signs are ``_``.

    Args:
        keys: of the segmentations, class numbers ``[1, *S]``.
        output_dir: folder to write to; made where it is missing.
        regions: class numbers of each region, by its name.
        allow_missing_keys: whether items may lack a key.
        overwrite: whether a file of that name may be replaced.

    Raises:
        DataError: when there is no region, two would be one folder, or a file is there already or cannot be written.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        regions: Mapping[str, Sequence[int]],
        allow_missing_keys: bool = False,
        overwrite: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys, print_log=False)
        self.output_dir = Path(output_dir)
        self.regions = {re.sub(r"\W+", "_", name).strip("_"): tuple(classes) for name, classes in regions.items()}
        if not regions:
            raise DataError("region_masks: the model has no regions. Leave the option out.")
        if len(self.regions) < len(regions) or not all(self.regions):
            raise DataError(
                f"region_masks: two of {', '.join(regions)} would have one folder's name. Rename one of them."
            )
        self.overwrite = overwrite

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            volume = item[key]
            scan = volume.meta["filename_or_obj"]
            for name, classes in self.regions.items():
                path = self.output_dir / name / f"{prediction_name(scan)}_seg.nii.gz"
                if path.exists() and not self.overwrite:
                    raise DataError(f"{path}: is there already. Name another --output_dir.")
                numbers, affine = volume_of_plane(volume)
                voxels = np.isin(numbers, classes).astype(np.uint8)
                save_nifti(voxels, affine, path, like=scan, description=MARK)
        return item
