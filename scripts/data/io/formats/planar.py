# SPDX-License-Identifier: Apache-2.0
"""PNG, TIFF, JPEG and BMP: images of one plane, without a place in the patient."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ....errors import DataError
from ....files import replace_file

__all__ = ["is_indexed", "is_own_png", "planar_affine", "read_planar", "save_png"]

_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, SyntaxError),
    *(struct.error, zlib.error, UnidentifiedImageError, Image.DecompressionBombError),
)
"""What Pillow raises on files with damaged bytes, or with more pixels than it believes."""

_FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
"""Of those that Pillow knows, some start other programs."""

_NUMBERS = ("1", "L", "P", "I", "F", "RGB")
"""Pillow's modes that hold numbers as they are meant; those of a palette are indices."""

_WITH_ALPHA = {"LA": "L", "RGBA": "RGB"}
_UPRIGHT = 1
_EXIF_ORIENTATION = 0x0112
_KEY = "Description"


def planar_affine() -> np.ndarray:
    """Pixel indices to RAS+ mm, ``[4, 4]``: 1 mm, columns to the right, rows downwards.

    The resolution that such a file may have says how to print it, not how large a pixel is in the patient.
    """
    return np.diag([1.0, -1.0, 1.0, 1.0])


def read_planar(path: str | os.PathLike) -> np.ndarray:
    """The pixels ``[X, Y, 1]`` (column, row), of a colour image ``[X, Y, 1, 3]``; of an indexed one the indices (ours).

    Raises:
        DataError: when it cannot be read to its end, has several pages, is transparent, is to be turned when it
            is shown, or is in other colours than grey and RGB.
    """
    path = os.fspath(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _refuse_what_is_no_plane(path, image)
            if image.mode in _WITH_ALPHA:
                if np.asarray(image.getchannel("A")).min() < 255:
                    raise DataError(f"{path}: partly transparent. Save it without an alpha channel.")
                image = image.convert(_WITH_ALPHA[image.mode])
            pixels = np.asarray(image)
    except _UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: cannot be read ({str(error)[:160].rstrip('. ')}). Copy or export it again."
        ) from error
    pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels.astype(pixels.dtype.newbyteorder("="))
    return np.ascontiguousarray(pixels.swapaxes(0, 1)[:, :, None])


def _refuse_what_is_no_plane(path: str, image: Image.Image) -> None:
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(f"{path}: {pages} pages. Save each as a file, or the stack as NIfTI if it is a volume.")
    if image.mode not in (*_NUMBERS, *_WITH_ALPHA) and not image.mode.startswith("I;16"):
        raise DataError(f"{path}: colours in {image.mode}. Save it as grey or RGB.")
    if image.getexif().get(_EXIF_ORIENTATION, _UPRIGHT) != _UPRIGHT:
        raise DataError(f"{path}: is to be turned when it is shown (EXIF orientation). Save it upright.")


def is_indexed(path: str | os.PathLike) -> bool:
    """Whether an image's pixels are the numbers of colours, as in a PNG with a palette (ours)."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.mode == "P"
    except _UNREADABLE:  # who reads it will say so
        return False


def save_png(pixels: np.ndarray, path: Path, description: str = "") -> None:
    """Write whole numbers ``[X, Y]`` as a grey PNG of 8 or, where they are larger, 16 bits, whole or not at all (ours).

    Args:
        pixels: of an integer type.
        path: the file.
        description: text for the header.

    Raises:
        DataError: when a value is no whole number from 0 to 65535.
    """
    if pixels.dtype.kind not in "ui" or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
        raise DataError(f"{path}: a PNG holds whole numbers from 0 to 65535. Give the classes such values.")
    kind = np.uint8 if pixels.max(initial=0) < 256 else np.uint16
    info = PngInfo()
    info.add_text(_KEY, description)
    with replace_file(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels.T.astype(kind))).save(temporary, format="PNG", pnginfo=info)


def is_own_png(path: str | os.PathLike, description: str) -> bool:
    """Whether an image file has this description, as PNG may (ours)."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.info.get(_KEY) == description
    except _UNREADABLE:  # the check will say what it is
        return False
