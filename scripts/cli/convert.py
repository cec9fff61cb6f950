# SPDX-License-Identifier: Apache-2.0
"""``dualseg convert``: scans of any format as NIfTI."""

# No postponed annotations here: Fire shows them as they are.

from rich.console import Console

from ..data.convert import convert_scans
from .words import words

__all__ = ["convert"]


def convert(
    source: str,
    output: str,
    *,
    spacing: tuple[float, float, float] | None = None,
    segments: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write scans as NIfTI with their geometry, labels too: NRRD, MetaImage, DICOM series, benchmark HDF5.

    DICOM segmentations (SEG) and contours (RTSTRUCT) become NAME_label.nii.gz beside the scan they were drawn on.

    Example: dualseg convert dicom_folder nifti_folder --segments liver,spleen

    Args:
        source: a scan, a folder of one DICOM series, or a folder of scans.
        output: folder for the NIfTI files; below it the source's folders are kept.
        spacing: voxel size in mm of HDF5 files, e.g. 1,1,1; default: 0.625 for mri_norm2.h5, 1 for others.
        segments: names of the structures in SEG and RTSTRUCT files that are the classes 1, 2, ..., by commas; default
            is all of them, by the alphabet.
        overwrite: replace files that are there.
    """
    files = convert_scans(str(source), str(output), spacing, overwrite, segments=words(segments) or None)
    Console().print(f"{len(files)} files written to {output}", highlight=False, soft_wrap=True)
