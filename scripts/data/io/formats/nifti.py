# SPDX-License-Identifier: Apache-2.0
"""NIfTI headers: where the voxels lie, in mm, and how a file says so."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from ....files import replace_file
from .names import SCAN_SUFFIXES, is_planar
from .planar import is_own_png

__all__ = ["MARK", "NIFTI_SUFFIXES", "is_own_result", "mm_affine", "save_nifti"]

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".img")
MARK = b"dualseg segmentation"
"""Description of the segmentations that inference writes: by it they are known, and not segmented as scans."""

_TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""NIfTI's codes of units: metre, millimetre, micrometre."""

_FORMS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)


def mm_affine(image: Any) -> np.ndarray:
    """Voxel indices to RAS+ mm of an image that nibabel has opened, in whatever unit its header has (ours).

    The sform counts where its code is above 0, else the qform, else the voxel size alone, as nibabel has it.
    """
    affine = np.array(image.affine, dtype=np.float64)
    if isinstance(image, nibabel.Nifti1Pair):
        affine[:3] *= _TO_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return affine


def forms_disagree(image: Any) -> float:
    """By how many mm a NIfTI file's sform and qform put a voxel at different places; 0 where only one is set."""
    (sform, scode), (qform, qcode) = image.get_sform(coded=True), image.get_qform(coded=True)
    if not (scode and qcode) or sform is None or qform is None:
        return 0.0
    ends = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    ends[:, :3] *= np.array(image.shape[:3]) - 1
    return float(np.linalg.norm(((sform - qform) @ ends.T)[:3], axis=0).max())


def save_nifti(
    voxels: np.ndarray,
    affine: np.ndarray,
    path: Path,
    like: str | os.PathLike | None = None,
    description: bytes = b"",
) -> None:
    """Write voxels ``[X, Y, Z(, C)]`` as NIfTI, whole or not at all, where every program finds them.

    Programs differ in which of NIfTI's two forms they follow, so both are written: those of the scan ``like``, with
    their codes and units, where that is NIfTI on the same grid; else the affine as both sform and qform (code 1). A
    sheared grid has no qform.

    Args:
        voxels: of any number type and byte order.
        affine: voxel indices to RAS+ mm.
        path: the file.
        like: the scan whose grid it is.
        description: text for the header, at most 79 bytes.

    Source: ours.
    """
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    affine = np.asarray(affine, dtype=np.float64)
    scan = _scan_on_grid(like, affine, voxels.shape[:3])
    header = nibabel.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    if scan is None:
        header.set_xyzt_units("mm")
        header.set_sform(affine, 1)
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        header.set_qform(affine, 1 if np.abs(axes.T @ axes - np.eye(3)).max() < 1e-4 else 0)
    else:
        affine = scan.affine  # in the unit of its header
        header["xyzt_units"] = int(scan.header["xyzt_units"]) & 7
        header["pixdim"][:4] = scan.header["pixdim"][:4]
        for field in _FORMS:
            header[field] = scan.header[field]
    header["descrip"] = description
    with replace_file(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(voxels, affine, header), temporary)


def _scan_on_grid(like: str | os.PathLike | None, affine: np.ndarray, shape: tuple[int, ...]) -> Any:
    """The NIfTI scan ``like`` if it has this grid; None where it is of another format or grid."""
    if like is None or not os.fspath(like).lower().endswith(NIFTI_SUFFIXES) or not os.path.isfile(like):
        return None
    scan = nibabel.load(like)
    if not isinstance(scan, nibabel.Nifti1Pair) or scan.shape[:3] != tuple(shape):
        return None
    voxel = np.linalg.norm(affine[:3, :3], axis=0).min()
    return scan if np.abs(mm_affine(scan) - affine).max() < 1e-3 * voxel else None


def is_own_result(file: str | os.PathLike) -> bool:
    """Whether a file is a segmentation that inference of this package has written (ours)."""
    if is_planar(file):
        return is_own_png(file, MARK.decode())
    if not os.fspath(file).lower().endswith(SCAN_SUFFIXES[:2]):
        return False
    try:
        return bytes(nibabel.load(file).header["descrip"]).rstrip(b"\0") == MARK
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error):  # the check will say what it is
        return False
