# SPDX-License-Identifier: Apache-2.0
"""Find the scans of a data set, and the label of each, in whatever way it is laid out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DataError

SCAN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_FOLDERS, LABEL_FOLDERS = ("images", "imagesTr"), ("labels", "labelsTr")

# What people append to tell image and label files of one case apart.
_ROLE = re.compile(r"[-_. ](image|img|label|labels|seg|segmentation|mask|gt|manual|0000)$", re.IGNORECASE)
_LABEL_ROLE = re.compile(r"[-_. ](label|labels|seg|segmentation|mask|gt|manual)$", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One scan: its ``name``, ``image`` (a path, or a list of paths, one per channel) and ``label`` (None if none)."""

    name: str
    image: str | list[str]
    label: str | None = None


@dataclass
class CaseCollection:
    """The cases of a data set in its own order; ``labels`` (value to name), held-out cases where it names any."""

    cases: list[Case]
    labels: dict[int, str] | None = None
    test: list[Case] = field(default_factory=list)
    validation: list[Case] = field(default_factory=list)
    modality: list[str] | None = None
    """What the channels show, in the data set's own words, e.g. CT, T1, FLAIR; None where it does not say."""
    ordered: bool = False
    """Whether the order of the cases carries a meaning, as in the benchmark's lists."""


def collect_cases(source: str | os.PathLike, labels: str | os.PathLike | None = None) -> CaseCollection:
    """Find the cases of a data set.

    Args:
        source: one of: a folder with ``images`` and ``labels`` (or ``imagesTr`` and ``labelsTr``) in it; a folder of
            images; a ``dataset.json`` of nnU-Net or the Decathlon, or the folder that has it; a benchmark ``.list``
            file of case names (``test.list`` and ``val.list`` beside ``train.list`` give the held-out cases).
        labels: the folder of labels, where it is not beside the images. Files belong together by name; endings like
            ``_seg``, ``_label`` or ``_0000`` do not count.

    Raises:
        DataError: when there are no images, or a label that fits none, or two that fit one.

    Source: ours.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder. Name a folder of scans, a dataset.json or a .list file.")
    if source.is_dir() and (source / "dataset.json").is_file():
        source = source / "dataset.json"
    if source.suffix == ".json":
        return _from_dataset_json(source)
    if source.suffix == ".list":
        return _from_list(source)
    if not source.is_dir():
        raise DataError(f"{source}: neither a folder, nor a dataset.json, nor a .list file.")
    return CaseCollection(_from_folder(source, Path(labels) if labels else None))


def case_name(file: str | os.PathLike) -> str:
    """Name of a case: its file's name without the suffix and endings such as ``_seg`` or ``_0000``."""
    return _ROLE.sub("", scan_stem(file))


def scan_stem(file: str | os.PathLike) -> str:
    """Name of a scan's file without its suffix; of a DICOM series the folder's name."""
    name = Path(file).name
    suffix = next((suffix for suffix in SCAN_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def scans_in(folder: Path) -> list[Path]:
    """The scans of a folder, sorted by name: files, and subfolders that hold a DICOM series each."""
    found = []
    for entry in sorted(folder.iterdir()):
        hidden = entry.name.startswith(".")  # also the ._NAME files that macOS leaves on shared disks
        if not hidden and (entry.name.lower().endswith(SCAN_SUFFIXES) if entry.is_file() else any(entry.glob("*.dcm"))):
            found.append(entry)
    return found


def _from_folder(source: Path, labels: Path | None) -> list[Case]:
    images = next((source / name for name in IMAGE_FOLDERS if (source / name).is_dir()), source)
    labels = labels or next((source / name for name in LABEL_FOLDERS if (source / name).is_dir()), None)
    for folder in (images, labels):
        if folder is not None and not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder. Name the folder of the images, and of the labels with --labels."
            )
    image_files = scans_in(images)
    if labels is None:  # both in one folder, told apart by their endings
        label_files = [file for file in image_files if _LABEL_ROLE.search(scan_stem(file))]
        image_files = [file for file in image_files if file not in label_files]
    else:
        label_files = scans_in(labels)
    if not image_files:
        raise DataError(f"{images}: no images in it. Looked for {', '.join(SCAN_SUFFIXES)} and folders of .dcm files.")
    return _pair(image_files, label_files)


def _pair(images: Iterable[Path], labels: Iterable[Path]) -> list[Case]:
    by_name: dict[str, Path] = {}
    for label in labels:
        other = by_name.setdefault(case_name(label), label)
        if other != label:
            raise DataError(
                f"{label}: a second label of case {case_name(label)}, beside {other.name}. Keep one of them."
            )
    cases: dict[str, Case] = {}
    for image in images:
        name = case_name(image)
        if name in cases:
            raise DataError(f"{image}: a second image of case {name}, beside {cases[name].image}. Rename one of them.")
        label = by_name.pop(name, None)
        cases[name] = Case(name, str(image), str(label) if label else None)
    if by_name:
        files = ", ".join(str(file) for file in list(by_name.values())[:3])
        raise DataError(f"{files}: {len(by_name)} labels without an image of the same name. Rename or remove them.")
    return list(cases.values())


def _from_dataset_json(path: Path) -> CaseCollection:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names = _label_names(content["labels"])
        if "file_ending" in content:  # nnU-Net, version 2
            cases = _nnunet_cases(path.parent, content)
        else:
            cases = [_decathlon_case(path.parent, entry) for entry in content["training"]]
        modality = _modality(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not a dataset.json of nnU-Net or the Decathlon ({type(error).__name__}: {error}). "
            "Name a folder of images instead."
        ) from error
    if not cases:
        raise DataError(f"{path}: no training cases. Check that imagesTr lies beside it.")
    return CaseCollection(cases, names, modality=modality)


def _modality(content: dict[str, Any]) -> list[str] | None:
    """Names of the channels, in their order, from nnU-Net's ``channel_names`` or the Decathlon's ``modality``."""
    channels = content.get("channel_names") or content.get("modality")
    if not isinstance(channels, dict):
        return None
    return [str(channels[key]) for key in sorted(channels, key=int)]


def _label_names(labels: dict[str, Any]) -> dict[int, str]:
    """Value to name, from either ``{"1": "heart"}`` (Decathlon) or ``{"heart": 1}`` (nnU-Net)."""
    if all(str(key).isdigit() for key in labels):
        return {int(value): str(name) for value, name in labels.items()}
    return {int(value): str(name) for name, value in labels.items()}


def _nnunet_cases(root: Path, content: dict[str, Any]) -> list[Case]:
    ending, channels = content["file_ending"], len(content.get("channel_names") or content["modality"])
    cases = []
    for first in sorted((root / "imagesTr").glob(f"*_0000{ending}")):
        name = first.name[: -len(f"_0000{ending}")]
        files = [str(first.with_name(f"{name}_{channel:04d}{ending}")) for channel in range(channels)]
        label = root / "labelsTr" / f"{name}{ending}"
        cases.append(Case(name, files if channels > 1 else files[0], str(label) if label.is_file() else None))
    return cases


def _decathlon_case(root: Path, entry: dict[str, str]) -> Case:
    image, label = root / entry["image"], root / entry["label"]
    if not image.is_file():  # nnU-Net, version 1, lists images without their channel
        channels = sorted(image.parent.glob(f"{scan_stem(image)}_[0-9][0-9][0-9][0-9].nii.gz"))
        if not channels:
            raise DataError(f"{image}: no such file, though dataset.json lists it. Unpack the data set again.")
        files = [str(file) for file in channels]
        return Case(scan_stem(image), files if len(files) > 1 else files[0], str(label))
    return Case(scan_stem(image), str(image), str(label))


def _from_list(path: Path) -> CaseCollection:
    cases = _listed_cases(path)
    held_out = []
    for name in ("test.list", "val.list"):
        other = path.with_name(name)
        held_out.append(_listed_cases(other) if other != path and other.is_file() else [])
    return CaseCollection(cases, None, *held_out, ordered=True)


def _listed_cases(path: Path) -> list[Case]:
    names = lines_of(path)
    if not names:
        raise DataError(f"{path}: an empty list. It needs a case name on each line.")
    return [_listed_case(path, name) for name in names]


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as UTF-8 text ({error}). It needs a case name on each line."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _listed_case(path: Path, name: str) -> Case:
    root, stem = path.parent, Path(name).name.removesuffix(".h5")
    image, label = root / "images" / f"{stem}.nii.gz", root / "labels" / f"{stem}.nii.gz"
    if image.is_file():
        return Case(stem, str(image), str(label) if label.is_file() else None)
    patterns = (f"{name}/mri_norm2.h5", f"{stem}.h5", f"{stem}_norm.h5")
    for folder in (root, *(entry for entry in sorted(root.iterdir()) if entry.is_dir())):
        for pattern in patterns:
            if (folder / pattern).is_file():
                return Case(stem, str(folder / pattern), str(folder / pattern))
    raise DataError(
        f"{path}: no scan of case {name}. Looked beside it and one folder below for images/{stem}.nii.gz, "
        f"{', '.join(patterns)}."
    )
