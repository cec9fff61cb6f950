# SPDX-License-Identifier: Apache-2.0
"""MONAI's ITK reader for NRRD and MetaImage, for what such files hold in practice."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from monai.data import ITKReader
from monai.utils import ensure_tuple

from ....errors import DataError
from .headers import NRRD_SUFFIXES, TEXT_SUFFIXES, check_text_header
from .segments import flatten, segments_of

__all__ = ["TextHeaderReader"]

_one_nrrd = threading.RLock()
"""ITK's reader of NRRD is not made for several threads."""

_COMPONENTS = {
    "unsigned_char": "UC",
    "char": "SS",
    "short": "SS",
    "unsigned_short": "US",
    "int": "D",
    "unsigned_int": "D",
    "float": "F",
    "double": "D",
}
"""Types of ITK's vector images that hold those of a file exactly."""


class TextHeaderReader(ITKReader):
    """MONAI's ITK reader for NRRD and MetaImage, one file at a time, and none whose header points elsewhere (ours).

    MONAI prefers pynrrd where that is installed, which makes all voxels float32, and ITK's own choice of a type fails
    for several channels of whole numbers. The layers of a segmentation of 3D Slicer become one label
    (:func:`~.segments.flatten`). Importing this package registers this reader.
    """

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Whether all are NRRD or MetaImage files by their names."""
        return all(os.fspath(name).lower().endswith(TEXT_SUFFIXES) for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> Any:
        """Read one path, or one per channel.

        Raises:
            DataError: when a header points outside the file's folder, or a segmentation's layers overlap.
        """
        names = [os.fspath(name) for name in ensure_tuple(data)]
        for name in names:
            check_text_header(name)
        images = []
        for name in names:
            with _one_nrrd if name.lower().endswith(NRRD_SUFFIXES) else nullcontext():
                image = _of_channels(name)
                images.append(super().read(name, **kwargs) if image is None else image)
        return images if len(images) > 1 else images[0]


def _of_channels(path: str) -> Any:
    """The image of a volume with several values a voxel, one label of a segmentation's; None for any other."""
    import itk  # takes seconds, and most users have NIfTI

    io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        return None
    io.SetFileName(path)
    io.ReadImageInformation()
    kinds = itk.CommonEnums
    single = io.GetNumberOfComponents() == 1 and io.GetPixelType() == kinds.IOPixel_SCALAR
    if single or io.GetPixelType() == kinds.IOPixel_COMPLEX or io.GetNumberOfDimensions() != 3:
        return None
    stored = io.GetComponentTypeAsString(io.GetComponentType())
    if stored not in _COMPONENTS:
        raise DataError(f"{path}: channels of {stored} numbers. Write it anew with 16-bit or floating-point numbers.")
    reader = itk.ImageFileReader[itk.VectorImage[getattr(itk, _COMPONENTS[stored]), 3]].New(FileName=path)
    reader.Update()
    image = reader.GetOutput()
    voxels = itk.array_view_from_image(image, keep_axes=False)  # [Z, Y, X, C]
    if segments_of(path):
        return _like(image, flatten(np.moveaxis(voxels, -1, 0), path))
    return image if voxels.shape[-1] > 1 else _like(image, voxels[..., 0])


def _like(image: Any, voxels: np.ndarray) -> Any:
    """An image of these voxels ``[Z, Y, X]`` where another one lies."""
    import itk

    made = itk.image_from_array(np.ascontiguousarray(voxels))
    made.SetOrigin(image.GetOrigin())
    made.SetSpacing(image.GetSpacing())
    made.SetDirection(image.GetDirection())
    return made
