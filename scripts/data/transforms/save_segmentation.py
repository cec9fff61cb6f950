# SPDX-License-Identifier: Apache-2.0
"""Write a segmentation completely or not at all, under its scan's name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import SaveImaged

from ...errors import DataError
from ..io.formats.names import is_planar, result_name
from ..io.formats.nifti import MARK, save_nifti
from ..io.formats.planar import save_png
from ..io.label_values import to_values
from .plane import volume_of_plane

__all__ = ["SaveSegmentationd"]


class SaveSegmentationd(SaveImaged):
    """Write ``[1, *S]`` class numbers as ``output_dir/NAME_seg.nii.gz``, 8 bit, with the geometry of its scan.

    Of a PNG, TIFF, JPEG or BMP it is ``NAME_seg.png``, pixel for pixel.

    It is a ``SaveImaged``, since tools such as MONAI Label leave those out. Unlike it, it leaves no half file on
    a full disk, and names results by case: for ``CASE/mri_norm2.h5`` and ``CASE_0000.nii.gz`` by CASE.

    Args:
        keys: of the segmentations.
        output_dir: folder to write to; made where it is missing.
        allow_missing_keys: whether items may lack a key.
        overwrite: whether a file of that name may be replaced.
        values: to write in the place of the class numbers 0, 1, ..., e.g. ``[0, 1, 2, 4]``; default: these numbers.

    Raises:
        DataError: when a file cannot be written, or is there already.

    Example:
        >>> SaveSegmentationd("pred", "predictions")({"pred": MetaTensor(torch.zeros(1, 8, 8, 8))})

    Source: ours.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        allow_missing_keys: bool = False,
        overwrite: bool = False,
        values: Sequence[float] | None = None,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys, print_log=False)
        self.output_dir = Path(output_dir)
        self.overwrite = overwrite
        self.values = values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            volume = item[key]
            scan = volume.meta["filename_or_obj"]
            path = self.output_dir / result_name(scan)
            if path.exists() and not self.overwrite:
                raise DataError(f"{path}: is there already. Name another --output_dir.")
            classes, affine = volume_of_plane(volume)
            voxels = to_values(classes, self.values)
            if is_planar(scan):
                save_png(voxels[..., 0], path, MARK.decode())
            else:
                save_nifti(voxels, affine, path, like=scan, description=MARK)
        return item
