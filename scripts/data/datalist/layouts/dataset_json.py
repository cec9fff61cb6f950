# SPDX-License-Identifier: Apache-2.0
"""A dataset.json of nnU-Net (both versions) or the Decathlon."""

from __future__ import annotations

import json
from pathlib import Path, PureWindowsPath
from typing import Any

from ....errors import DataError
from ...incomplete_labels import is_ignored_name
from ...io.formats.names import scan_stem
from ...io.regions import listed_regions, names_of_classes
from .case import Case, CaseCollection
from .folder import list_folder

__all__ = ["from_dataset_json"]


def from_dataset_json(path: Path) -> CaseCollection:
    """The cases of a dataset.json, with its images for test as unlabelled ones, or as test cases if they have labels.

    Raises:
        DataError: when it is none, or says what cannot be used.

    Source: ours; the formats are those of nnU-Net's documentation and of the Decathlon's archives.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        named = content["labels"]
        regions = {name: own for name, own in listed_regions(named).items() if not is_ignored_name(name)}
        names = _label_names(named, regions)
        modality = _modality(content)
        if "file_ending" in content:  # nnU-Net, version 2
            found = _nnunet(path.parent, content, len(modality or [0]))
        else:
            found = _decathlon(path.parent, content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text file ({error.reason}). A dataset.json is JSON text.") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not a dataset.json of nnU-Net or the Decathlon ({type(error).__name__}: {error}). "
            "Name a folder of images instead."
        ) from error
    if not found.cases:
        raise DataError(f"{path}: no training cases. Check that imagesTr lies beside it.")
    found.modality = modality
    ignored = {value: name for value, name in names.items() if is_ignored_name(name)}
    values = [value for value in names if value not in ignored]
    if regions and min(ignored, default=len(values)) < len(values):  # which would be a class's number
        raise DataError(
            f"{path}: the ignored value {min(ignored)} lies among those of the regions. Give it the highest."
        )
    if regions and values != list(range(len(values))):  # as BraTS has them: 0, 1, 2, 4
        found.values = [float(value) for value in values]
        names = dict(enumerate(names[value] for value in values)) | ignored
    found.labels, found.regions = names, regions
    return found


def _modality(content: dict[str, Any]) -> list[str] | None:
    """Names of the channels, in their order, from nnU-Net's ``channel_names`` or the Decathlon's ``modality``."""
    channels = content.get("channel_names") or content.get("modality")
    if not isinstance(channels, dict):
        return None
    return [str(channels[key]) for key in sorted(channels, key=int)]


def _label_names(labels: dict[str, Any], regions: dict[str, list[float]]) -> dict[int, str]:
    """Value to name, from either ``{"1": "heart"}`` (Decathlon) or ``{"heart": 1}`` (nnU-Net)."""
    if regions:
        ignored = {value: name for name, value in labels.items() if is_ignored_name(name)}
        return names_of_classes(regions) | ignored
    if all(str(key).isdigit() for key in labels):
        return {int(value): str(name) for value, name in labels.items()}
    return {int(value): str(name) for name, value in labels.items()}


def _nnunet(root: Path, content: dict[str, Any], channels: int) -> CaseCollection:
    ending = content["file_ending"]
    if isinstance(content.get("dataset"), dict):  # each case with its files
        cases = []
        for name, entry in content["dataset"].items():
            images = [str(_below(root, image)) for image in entry["images"]]
            label = _below(root, entry["label"])
            cases.append(Case(name, images if len(images) > 1 else images[0], str(label) if label.is_file() else None))
        return CaseCollection(cases)
    unused: dict[str, str] = {}
    cases = _nnunet_cases(root / "imagesTr", root / "labelsTr", ending, channels, unused)
    further = _nnunet_cases(root / "imagesTs", root / "labelsTs", ending, channels, unused)
    return CaseCollection(
        [*cases, *(case for case in further if case.label is None)],
        test=[case for case in further if case.label is not None],
        unused=unused,
    )


def _nnunet_cases(images: Path, labels: Path, ending: str, channels: int, unused: dict[str, str]) -> list[Case]:
    """``CASE_0000.ENDING`` ... with ``CASE.ENDING``; other files are noted in ``unused``."""
    if not images.is_dir():
        return []
    scans: dict[str, str | list[str]] = {}
    taken = set()
    for first in sorted(images.glob(f"*_0000{ending}")):
        name = first.name[: -len(f"_0000{ending}")]
        if name.startswith("."):
            continue
        files = [first.with_name(f"{name}_{channel:04d}{ending}") for channel in range(channels)]
        if missing := [file for file in files if not file.is_file()]:
            raise DataError(f"{missing[0]}: no such file; dataset.json has {channels} channels. Copy it there.")
        taken |= set(files)
        scans[name] = [str(file) for file in files] if channels > 1 else str(first)
    for listing, used in ((list_folder(images), taken), (list_folder(labels) if labels.is_dir() else None, None)):
        if listing is None:
            continue
        others = [file for file in listing.scans if (used is not None and file not in used)]
        others += [file for file in listing.scans if used is None and not file.name.endswith(ending)]
        unused |= listing.unused | {str(file): f"not named CASE_0000{ending} or CASE{ending}" for file in others}
    files = [file for file in sorted(labels.glob(f"*{ending}")) if not file.name.startswith(".")]
    by_name = {file.name[: -len(ending)]: file for file in files}
    if lost := [file for name, file in by_name.items() if name not in scans]:
        raise DataError(
            f"{lost[0]}: a label without {images.name}/{lost[0].name[: -len(ending)]}_0000{ending}. Remove it."
        )
    return [Case(name, image, str(by_name[name]) if name in by_name else None) for name, image in scans.items()]


def _decathlon(root: Path, content: dict[str, Any]) -> CaseCollection:
    found = CaseCollection([_decathlon_case(root, entry) for entry in content["training"]])
    known = {case.name for case in found.cases}
    for entry in content.get("test") or []:
        image = entry["image"] if isinstance(entry, dict) else entry
        try:
            case = _decathlon_case(root, {"image": image})
        except DataError:
            found.unused[str(_below(root, image))] = "listed for test in dataset.json, but not there"
            continue
        if case.name not in known:
            found.cases.append(case)
    return found


def _decathlon_case(root: Path, entry: dict[str, str]) -> Case:
    image = _below(root, entry["image"])
    label = str(_below(root, entry["label"])) if "label" in entry else None
    if not image.is_file():  # nnU-Net, version 1, lists images without their channel
        channels = sorted(image.parent.glob(f"{scan_stem(image)}_[0-9][0-9][0-9][0-9].nii.gz"))
        if not channels:
            raise DataError(f"{image}: no such file, though dataset.json lists it. Unpack the data set again.")
        files = [str(file) for file in channels]
        return Case(scan_stem(image), files if len(files) > 1 else files[0], label)
    return Case(scan_stem(image), str(image), label)


def _below(root: Path, file: str) -> Path:
    path = root / file
    return path if path.exists() or "\\" not in file else root / PureWindowsPath(file).as_posix()
