# SPDX-License-Identifier: Apache-2.0
"""From what a user typed to files that exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import DataError

__all__ = ["check_patch_size", "find_datalist", "find_images", "find_weights"]

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def find_datalist(dataset_dir: str | None, name: str) -> str:
    """Path of the datalist ``name`` in ``dataset_dir``, both of which must exist (ours).

    Raises:
        DataError: when no folder is given or it, or the datalist in it, is missing.
    """
    if not dataset_dir:
        raise DataError(f"No data set given. Add --dataset_dir FOLDER, the folder that holds {name}.")
    path = Path(dataset_dir, name)
    if not path.parent.is_dir():
        raise DataError(f"{dataset_dir}: no such folder. Correct --dataset_dir, the folder that holds {name}.")
    if not path.is_file():
        others = ", ".join(sorted(other.name for other in path.parent.glob("*.json"))) or "no JSON file"
        raise DataError(f"{path}: no such datalist; the folder has {others}. Correct --dataset_dir or --datalist_name.")
    return str(path)


def find_images(dataset_dir: str | None) -> list[dict[str, str]]:
    """The scans in a folder, to segment: ``[{"image": path}]``, sorted by name (ours).

    Takes NIfTI, NRRD and MetaImage files, and subfolders, each as one DICOM series. A path to a single file is taken
    as it is.

    Raises:
        DataError: when the folder is missing or holds no scan.
    """
    if not dataset_dir:
        raise DataError("No images given. Add --dataset_dir FOLDER, the folder of scans to segment.")
    path = Path(dataset_dir)
    if path.is_file():
        return [{"image": str(path)}]
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Correct --dataset_dir, the folder of scans to segment.")
    files = [entry for entry in path.iterdir() if entry.is_file() and entry.name.lower().endswith(IMAGE_SUFFIXES)]
    series = [entry for entry in path.iterdir() if entry.is_dir() and any(entry.glob("*.dcm"))]
    if not files and not series:
        raise DataError(
            f"{path}: no scan in it. Needed are files {', '.join(IMAGE_SUFFIXES)}, or a folder of .dcm per series."
        )
    return [{"image": str(entry)} for entry in sorted(files + series)]


def find_weights(path: str) -> str:
    """Path of a model file that exists (ours).

    Raises:
        DataError: when it does not.
    """
    if not Path(path).is_file():
        raise DataError(
            f"{path}: no such model. Train one (the run's folder has model.pt) and give its path as --ckpt_path."
        )
    return str(path)


def check_patch_size(patch_size: Sequence[int], *multiples: int) -> None:
    """Refuse a patch that a network cannot take, before any scan is read for training (ours).

    Args:
        patch_size: voxels along each axis.
        multiples: the networks' ``size_multiple``; every axis must be a multiple of each.

    Raises:
        DataError: when it is not, with the nearest size that is.
    """
    multiple = max(multiples)
    if any(length % multiple for length in patch_size):
        fitting = [max(1, round(length / multiple)) * multiple for length in patch_size]
        raise DataError(
            f"patch_size {list(patch_size)}: the networks need multiples of {multiple} along every axis. "
            f"Set patch_size to {fitting}, for example."
        )
