# SPDX-License-Identifier: Apache-2.0
"""From what a user typed to files that exist."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cases import SCAN_SUFFIXES, scan_stem, scans_in
from .errors import DataError
from .readers import BENCHMARK_FILE, DATASET_MARK, H5_SUFFIXES, split_dataset

__all__ = ["check_patch_size", "claim_folder", "find_datalist", "find_images", "find_weights", "prediction_name"]


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


def find_images(dataset_dir: str | None, channels: int = 1) -> list[dict[str, Any]]:
    """The scans in a folder, to segment: ``[{"image": path}]``, sorted by name (ours).

    Takes NIfTI, NRRD, MetaImage and HDF5 files, subfolders, each as one DICOM series, and the benchmark's
    ``CASE/mri_norm2.h5``. A path to a single file is taken as it is.

    Args:
        dataset_dir: the folder, or one file.
        channels: that the network takes. Of several, ``CASE_0000``, ``CASE_0001``, ... (nnU-Net's names) are the
            channels of one scan, a list of paths; a file without such an ending must hold all of them.

    Raises:
        DataError: when the folder is missing or holds no scan, a channel is missing, or two results would get one name.
    """
    if not dataset_dir:
        raise DataError("No images given. Add --dataset_dir FOLDER, the folder of scans to segment.")
    path = Path(dataset_dir)
    if path.is_file():
        return [{"image": _image_path(path)}]
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Correct --dataset_dir, the folder of scans to segment.")
    visible = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    hdf5 = [entry for entry in visible if entry.is_file() and entry.name.lower().endswith(H5_SUFFIXES)]
    hdf5 += [entry / BENCHMARK_FILE for entry in visible if (entry / BENCHMARK_FILE).is_file()]
    scans = sorted(scans_in(path) + hdf5)
    if not scans:
        raise DataError(
            f"{path}: no scan in it. Needed are files {', '.join((*SCAN_SUFFIXES, *H5_SUFFIXES))}, or a folder of .dcm "
            "per series."
        )
    images = _joined_channels(scans, channels) if channels > 1 else [_image_path(scan) for scan in scans]
    _refuse_equal_names(images)
    return [{"image": image} for image in images]


def prediction_name(image: str | os.PathLike) -> str:
    """Name of a result: the file's without suffix and ``_0000``; of ``CASE/mri_norm2.h5`` its folder's (ours)."""
    path = Path(split_dataset(os.fspath(image))[0])
    if path.name == BENCHMARK_FILE:
        return path.parent.name
    stem = path.stem if path.name.lower().endswith(H5_SUFFIXES) else scan_stem(path)
    return stem.removesuffix("_0000")


def _image_path(path: Path) -> str:
    return f"{path}{DATASET_MARK}image" if path.name.lower().endswith(H5_SUFFIXES) else str(path)


def _joined_channels(scans: list[Path], channels: int) -> list[str | list[str]]:
    """Scans whose names end in ``_0000`` with their other channels, which are no scans of their own."""
    images: list[str | list[str]] = []
    for scan in scans:
        ending = re.search(r"_(\d{4})$", scan_stem(scan))
        if ending is None:
            images.append(_image_path(scan))
        elif int(ending.group(1)) == 0:
            rest = scan.name[len(scan_stem(scan)) :]
            files = [scan.with_name(f"{scan_stem(scan)[:-4]}{number:04d}{rest}") for number in range(channels)]
            for file in files:
                if not file.exists():
                    raise DataError(f"{file}: no such file; the network takes {channels} channels. Copy it there.")
            images.append([str(file) for file in files])
        elif not scan.with_name(scan.name.replace(ending.group(), "_0000")).exists():
            raise DataError(f"{scan}: a channel without its first one, named _0000. Copy that there.")
    return images


def _refuse_equal_names(images: Sequence[str | list[str]]) -> None:
    first: dict[str, str] = {}
    for image in images:
        file = image if isinstance(image, str) else image[0]
        other = first.setdefault(prediction_name(file), file)
        if other != file:
            raise DataError(f"{file}: its result would replace that of {other}. Rename one of them.")


def claim_folder(path: str) -> str:
    """Make a folder for results, and prove that it can be written to before any work is done (ours).

    Raises:
        DataError: when it cannot.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written to ({error.strerror}). Name another --output_dir.") from error
    return path


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
