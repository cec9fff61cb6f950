# SPDX-License-Identifier: Apache-2.0
"""From what a user typed to files that exist."""

from __future__ import annotations

import logging
import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config_text import is_text
from ...errors import DataError
from ...tensor_files import DamagedFileError, find_non_finite, load_tensors
from ..io.formats.dicom import is_dicom, is_whole
from ..io.formats.hdf5 import BENCHMARK_FILE, DATASET_MARK, H5_SUFFIXES
from ..io.formats.names import (
    SCAN_SUFFIXES,
    is_planar,
    label_of,
    names_a_label,
    prediction_name,
    result_name,
    scan_stem,
    scans_in,
)
from ..io.formats.nifti import is_own_result
from ..io.formats.segments import segments_of
from .layouts.channels import join_channels, known_channels
from .layouts.folder import FOLDERS_OF_ROLES, list_folder, unlabeled_in

__all__ = ["check_patch_size", "claim_folder", "find_datalist", "find_images", "find_weights", "scans_to_segment"]

EXISTING = ("refuse", "keep", "replace")
"""What to do with results that are there already."""

logger = logging.getLogger(__name__)


def find_datalist(dataset_dir: str | None, name: str) -> str:
    """Path of the datalist ``name`` in ``dataset_dir``, both of which must exist (ours).

    Raises:
        DataError: when no folder is given or it, or the datalist in it, is missing.
    """
    if dataset_dir in (None, ""):
        raise DataError(f"No data set given. Add --dataset_dir FOLDER, the folder that holds {name}.")
    path = Path(str(dataset_dir), str(name))  # a folder named 2019 arrives as a number
    if not path.parent.is_dir():
        raise DataError(f"{dataset_dir}: no such folder. Correct --dataset_dir, the folder that holds {name}.")
    if not path.is_file():
        others = ", ".join(sorted(other.name for other in path.parent.glob("*.json*"))) or "no JSON file"
        raise DataError(f"{path}: no such datalist; the folder has {others}. Correct --dataset_dir or --datalist_name.")
    return str(path)


def find_images(dataset_dir: str | None, channels: int = 1, spatial_dims: int = 3) -> list[dict[str, Any]]:
    """The scans in a folder, to segment: ``[{"image": path}]``, sorted by name (ours).

    Takes NIfTI, NRRD, MetaImage, HDF5, PNG, TIFF, JPEG and BMP files, X-ray images in DICOM, subfolders, each as one
    DICOM series or one case, and the benchmark's ``CASE/mri_norm2.h5``. A path to a single file is taken as it is.
    Results of this program, segmentations of 3D Slicer and files such as ``CASE_seg`` beside ``CASE`` are no scans; the
    log says which were left out.

    Args:
        dataset_dir: the folder, or one file.
        channels: that the network takes. Of several, ``CASE_0000``, ``CASE_0001``, ... (nnU-Net's names) or the four
            files of BraTS are the channels of one scan, a list of paths; any other file must hold all of them.
        spatial_dims: of the network. Beside scans for a 3D one, PNG, TIFF, JPEG and BMP only show these.

    Raises:
        DataError: when the folder is missing or holds no scan, a channel is missing, or two results would get one name.
    """
    if dataset_dir in (None, ""):
        raise DataError("No images given. Add --dataset_dir FOLDER, the folder of scans to segment.")
    path = Path(str(dataset_dir))
    if path.is_file():
        return [{"image": _image_path(path)}]
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Correct --dataset_dir, the folder of scans to segment.")
    visible = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    hdf5 = [entry for entry in visible if entry.is_file() and entry.name.lower().endswith(H5_SUFFIXES)]
    hdf5 += [entry / BENCHMARK_FILE for entry in visible if (entry / BENCHMARK_FILE).is_file()]
    whole = [entry for entry in visible if entry.is_file() and is_dicom(entry) and is_whole(entry)]
    scans = _without_labels(path, sorted(scans_in(path) + hdf5 + whole))
    if spatial_dims == 3 and not all(map(is_planar, scans)):
        scans = [scan for scan in scans if not is_planar(scan)]
    folders = {folder.name.lower() for folder in list_folder(path).cases}
    if folders and not any(scan.is_file() for scan in scans) and not folders & set(FOLDERS_OF_ROLES):
        cases = unlabeled_in(path, None, channels)
        logger.info("%s: %s", path, cases.summary)
        _refuse_equal_names([case.image for case in cases.cases])
        return [{"image": case.image} for case in cases.cases]
    if not scans:
        raise DataError(
            f"{path}: no scan in it. Needed are files {', '.join((*SCAN_SUFFIXES, *H5_SUFFIXES))}, or a folder of .dcm "
            "per series."
        )
    images = _joined_channels(scans, channels) if channels > 1 else [_image_path(scan) for scan in scans]
    _refuse_equal_names(images)
    if not is_text(images):
        raise DataError(f"{path}: a file's name in it is no UTF-8 text. Rename that file.")
    return [{"image": image} for image in images]


def scans_to_segment(
    dataset_dir: str | None, channels: int, output_dir: str, existing: str = "refuse", spatial_dims: int = 3
) -> list[dict[str, Any]]:
    """The scans of a folder as :func:`find_images` finds them, once it is sure that no result replaces a file (ours).

    Args:
        dataset_dir: the folder, or one file.
        channels: that the network takes.
        output_dir: folder for the results, ``NAME_seg.nii.gz`` or ``NAME_seg.png``.
        existing: for results that are there already: ``refuse`` them, ``keep`` them and leave out their scans, or
            ``replace`` those that this program has written. Other files are never replaced.
        spatial_dims: of the network.

    Raises:
        DataError: as :func:`find_images` does; when a result is there and may not be replaced, or all are there.
    """
    if existing not in EXISTING:
        raise DataError(f"existing {existing!r}: must be {', '.join(EXISTING[:-1])} or {EXISTING[-1]}.")
    images = find_images(dataset_dir, channels, spatial_dims)
    results = {}
    for number, case in enumerate(images):
        first = case["image"] if isinstance(case["image"], str) else case["image"][0]
        target = Path(str(output_dir), result_name(first))
        if target.exists():
            results[number] = target
    if existing == "keep":
        left = [case for number, case in enumerate(images) if number not in results]
        if not left:
            raise DataError(f"{output_dir}: all {len(images)} results are there already. There is nothing to do.")
        return left
    strangers = [target for target in results.values() if existing == "refuse" or not is_own_result(target)]
    if strangers:
        remedy = (
            "Add --existing keep to segment the other scans, --existing replace to replace them, or name another "
            "--output_dir."
            if existing == "refuse"
            else "It was not written by this program: move it, or name another --output_dir."
        )
        raise DataError(f"{strangers[0]}: is there already ({len(strangers)} such). {remedy}")
    return images


def _without_labels(folder: Path, files: list[Path]) -> list[Path]:
    """The files without those that are known not to be scans."""
    names = {scan_stem(file) for file in files}
    left_out = [
        file
        for file in files
        if file.is_file()
        and (is_own_result(file) or (names_a_label(file) and label_of(file) & names) or segments_of(str(file)))
    ]
    if left_out:
        shown = ", ".join(file.name for file in left_out[:5])
        logger.warning("%s: %d files are segmentations, not scans: %s", folder, len(left_out), shown)
    return [file for file in files if file not in left_out]


def _image_path(path: Path) -> str:
    return f"{path}{DATASET_MARK}image" if path.name.lower().endswith(H5_SUFFIXES) else str(path)


def _joined_channels(scans: list[Path], channels: int) -> list[str | list[str]]:
    """Scans whose names end in ``_0000``, or as BraTS', with their other channels, which are no scans of their own."""
    if known := known_channels(scans):
        return list(join_channels(scans, known)[0].values())
    images: list[str | list[str]] = []
    for scan in scans:
        ending = re.search(r"_(\d{4})$", scan_stem(scan))
        if ending is None or int(ending.group(1)) >= channels:
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
    path = str(path)
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written to ({error.strerror}). Name another --output_dir.") from error
    return path


def find_weights(path: str) -> str:
    """Path of a model file that exists and is as it was written (ours).

    Raises:
        DataError: when it does not, or holds something else than tensors.
    """
    if not Path(str(path)).is_file():
        raise DataError(
            f"{path}: no such model. Name the bundle's folder with --bundle_root, or train a model and give its path "
            "as --ckpt_path."
        )
    if str(path).endswith((".pt", ".pth")):
        try:
            content = load_tensors(Path(path))
        except DamagedFileError as error:
            raise DataError(f"{error}, or is no file of weights. Copy it again, or name another model.") from error
        if (name := find_non_finite(content)) is not None:
            raise DataError(f"{path}: {name} is not finite. Name another model.")
    return str(path)


def check_patch_size(patch_size: Sequence[int], *multiples: int | Sequence[int]) -> None:
    """Refuse a patch that a network cannot take, before any scan is read for training (ours).

    Args:
        patch_size: voxels along each axis.
        multiples: the networks' ``size_multiple``, one number or one for each axis.

    Raises:
        DataError: when an axis is no multiple of each of them, with the nearest size that is.
    """
    of_each = [[one] * len(patch_size) if isinstance(one, int) else list(one) for one in multiples]
    needed = [math.lcm(*along) for along in zip(*of_each, strict=True)]
    if any(length % multiple for length, multiple in zip(patch_size, needed, strict=True)):
        fitting = [
            max(1, round(length / multiple)) * multiple for length, multiple in zip(patch_size, needed, strict=True)
        ]
        wanted = f"{needed[0]} along every axis" if len(set(needed)) == 1 else f"{needed}, axis by axis"
        raise DataError(
            f"patch_size {list(patch_size)}: the networks need multiples of {wanted}. "
            f"Set patch_size to {fitting}, for example."
        )
