# SPDX-License-Identifier: Apache-2.0
"""Cases of a folder: images and labels in two folders, in one, or in a folder of each case."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ....errors import DataError
from ...io.dicom_labels import dicom_labels
from ...io.formats.dicom import files_of, is_whole
from ...io.formats.hdf5 import H5_SUFFIXES
from ...io.formats.names import (
    SCAN_SUFFIXES,
    case_name,
    holds_dicom,
    is_planar,
    looks_like_dicom,
    names_a_label,
    read_name,
    scan_stem,
    starts_as_label,
)
from ...io.formats.nifti import is_own_result
from .case import Case, CaseCollection, pair
from .channels import join_channels

__all__ = ["DICOM_LABEL", "DRAWN_LABELS", "FOLDERS_OF_ROLES", "Listing", "from_folder", "list_folder", "unlabeled_in"]

IMAGE_FOLDERS = ("images", "imagesTr", "image", "imgs", "img", "scans", "volumes")
LABEL_FOLDERS = ("labels", "labelsTr", "label", "masks", "mask", "segmentations", "segmentation", "seg", "gt")
LABELED_FOLDERS = ("labeled", "labelled")
UNLABELED_FOLDERS = ("unlabeled", "unlabelled", "images_unlabeled", "images_unlabelled", "imagesUn", "imagesTs")
_FURTHER = {name.lower() for name in (*UNLABELED_FOLDERS, "labelsTs")}
FOLDERS_OF_ROLES = tuple(name.lower() for name in (*IMAGE_FOLDERS, *LABEL_FOLDERS, *UNLABELED_FOLDERS, "labelsTs"))
"""Folders by what is in them, in lower case; they are no cases."""

DICOM_LABEL = "SEG or RTSTRUCT: `dualseg split` and `dualseg convert` make a label of it"
"""Why such a file is no scan."""
DRAWN_LABELS = "dicom_labels"
"""Folder beside a datalist with what `dualseg split` has made of such files."""

_DATA_SUFFIXES = (".raw", ".raw.gz", ".zraw", ".hdr")
_LEFTOVERS = ("thumbs.db", "desktop.ini")
_NO_SCANS = (".json", ".list")
"""What goes with scans and is none: BIDS' notes, datalists."""


@dataclass
class Listing:
    """What lies in a folder: ``scans`` (files and DICOM folders), ``cases`` (folders with scans), ``unused`` files."""

    scans: list[Path] = field(default_factory=list)
    cases: list[Path] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)


def list_folder(folder: Path) -> Listing:
    """Look at what lies in a folder; hidden files and what belongs to a scan's file are passed over (ours)."""
    found = Listing()
    for entry in sorted(folder.iterdir()):
        name = entry.name.lower()
        if name.startswith(".") or name in _LEFTOVERS or name == DRAWN_LABELS:
            continue
        if not entry.exists():
            found.unused[str(entry)] = "a link to nothing"
        elif entry.is_dir():
            if _holds_scan_files(entry):
                found.cases.append(entry)
            elif holds_dicom(entry):
                labels = {label.file for label in dicom_labels(entry)}
                found.unused |= dict.fromkeys(labels, DICOM_LABEL)
                if not labels.issuperset(files_of(str(entry))):
                    found.scans.append(entry)
        elif name.endswith(SCAN_SUFFIXES):
            found.scans.append(entry)
        elif name.endswith(H5_SUFFIXES):
            found.unused[str(entry)] = "HDF5: name it in a .list or a datalist"
        elif looks_like_dicom(entry):
            if dicom_labels(entry):
                found.unused[str(entry)] = DICOM_LABEL
            elif is_whole(entry):
                found.scans.append(entry)
            else:
                found.unused[str(entry)] = "DICOM outside of a series' folder"
        elif not name.endswith((*_DATA_SUFFIXES, *_NO_SCANS)):
            found.unused[str(entry)] = "no scan"
    return found


def from_folder(
    source: Path, labels: Path | None, unlabeled: Path | None, endings: Sequence[str] | None
) -> CaseCollection:
    """Find the cases below a folder, see :func:`~..cases.collect_cases`; what is not used is named (ours)."""
    root = _first(source, LABELED_FOLDERS) or source
    images = _first(root, IMAGE_FOLDERS) or root
    labels = labels or _first(root, LABEL_FOLDERS)
    for folder in filter(None, (images, labels, unlabeled)):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder. Name the folder of the images, of the labels with --labels, and of further "
                "scans with --unlabeled."
            )
    found = _cases_in(images, labels, endings)
    for further in [unlabeled] if unlabeled else filter(None, (_first(source, [name]) for name in UNLABELED_FOLDERS)):
        of_test = _first(source, ["labelsTs"]) if further.name.lower() == "imagests" else None
        found = with_unlabeled(found, further, endings, of_test)
    if not (found.cases or found.test):
        reasons = "; ".join(f"{Path(file).name}: {reason}" for file, reason in list(found.unused.items())[:3])
        raise DataError(
            f"{images}: no images in it. Looked for {', '.join(SCAN_SUFFIXES)} and folders of .dcm files."
            + (f" There are {reasons}." if reasons else "")
        )
    return found


def with_unlabeled(
    found: CaseCollection, folder: Path, endings: Sequence[str] | None = None, labels: Path | None = None
) -> CaseCollection:
    """Add the scans of a folder: as test cases where ``labels`` has theirs, else as unlabelled ones.

    A label file among them is left out, as is a scan that is there already.
    """
    channels = next((len(case.image) if isinstance(case.image, list) else 1 for case in found.cases), None)
    further = unlabeled_in(folder, found.modality if endings is None else endings, channels)
    scans = {case.name: case.image for case in further.cases}
    cases = pair(scans, list_folder(labels).scans) if labels is not None else further.cases
    known = {os.path.realpath(file) for case in found.cases for file in case.files}
    new = [case for case in cases if os.path.realpath(case.files[0]) not in known]
    found.test += [case for case in new if case.label is not None]
    found.cases += [case for case in new if case.label is None]
    found.unused |= further.unused
    return found


def unlabeled_in(folder: Path, endings: Sequence[str] | None, channels: int | None) -> CaseCollection:
    """The scans of a folder without labels; label files in it are left out."""
    found = _cases_in(folder, None, endings, channels)
    for case in found.cases:
        if case.label is not None:
            found.unused[case.label] = "a label among unlabelled scans"
    found.cases = [Case(case.name, case.image) for case in found.cases]
    return found


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of some folders that is there, whichever letters are capitals."""
    there = {entry.name.lower(): entry for entry in sorted(folder.iterdir()) if entry.is_dir()}
    return next((there[name.lower()] for name in names if name.lower() in there), None)


def _cases_in(
    images: Path, labels: Path | None, endings: Sequence[str] | None, channels: int | None = None
) -> CaseCollection:
    listing = list_folder(images)
    listing.cases = [folder for folder in listing.cases if folder.name.lower() not in _FURTHER]
    listing.scans = [scan for scan in listing.scans if scan.is_file() or scan.name.lower() not in _FURTHER]
    if not listing.scans and not listing.cases:
        return CaseCollection([], unused=listing.unused)
    if any(scan.is_file() or labels for scan in listing.scans) or (listing.scans and not listing.cases):
        listing.unused |= {str(folder): "a folder beside the scans" for folder in listing.cases}
        return _flat(listing, labels, endings, channels)
    return _case_folders(images, listing, labels, endings, channels)


def _flat(listing: Listing, labels: Path | None, endings: Sequence[str] | None, channels: int | None) -> CaseCollection:
    files, unused = listing.scans, listing.unused
    if labels is not None:
        drawn = list_folder(labels)
        unused |= drawn.unused | {str(folder): "a folder beside the labels" for folder in drawn.cases}
        label_files = drawn.scans
        for file in [file for file in files if file.is_file() and names_a_label(file)]:
            unused[str(file)] = "named as a label, among the images"
            files = [other for other in files if other != file]
    else:  # both in one folder
        for file in [file for file in files if is_own_result(file)]:
            unused[str(file)] = "a segmentation of this program, no annotation"
            files = [other for other in files if other != file]
        label_files = _labels_among(files)
        files = [file for file in files if file not in label_files]
        if [read_name(file)[0] for file in (*files, *label_files)] == ["", ""]:  # image.nii.gz, label.nii.gz
            name = files[0].parent.name if files else ""
            if len(files) == len(label_files) == 1:
                return CaseCollection([Case(name, str(files[0]), str(label_files[0]))], unused=unused)
    if not files:
        return CaseCollection([], unused=unused | {str(file): "named as a label" for file in label_files})
    known = [scan_stem(file) for file in label_files] + [case_name(file) for file in label_files]
    scans, modality, left_out = join_channels(files, endings, known, channels=channels)
    unused |= {str(file): "not one of --channels" for file in left_out}
    return CaseCollection(pair(scans, label_files), modality=modality, unused=unused)


def _labels_among(files: Sequence[Path]) -> list[Path]:
    """The labels in a folder of both: by the ends of their names or, if none ends so, by their beginnings."""
    files = [file for file in files if file.is_file()]
    by_end = [file for file in files if names_a_label(file)]
    return by_end or [file for file in files if starts_as_label(file)]


def _case_folders(
    root: Path, listing: Listing, labels: Path | None, endings: Sequence[str] | None, channels: int | None
) -> CaseCollection:
    """A folder for each case, at any depth, with its images and its label."""
    found = CaseCollection([], unused=listing.unused)
    scans: dict[str, str | list[str]] = {}
    drawn: dict[str, Path] = {}
    folders = [folder for top in listing.cases for folder in _folders_with_scans(top)]
    folders += listing.scans  # DICOM of a case without label
    names = [folder.name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        case = name if names.count(name) == 1 else "_".join(folder.relative_to(root).parts)
        inside = list_folder(folder) if folder in listing.cases or folder not in listing.scans else Listing([folder])
        found.unused |= inside.unused
        own = [file for file in inside.scans if not is_own_result(file)]
        if not all(map(is_planar, own)):
            found.unused |= {str(file): "a 2D image beside a 3D scan" for file in own if is_planar(file)}
            own = [file for file in own if not is_planar(file)]
        own_labels = _labels_among(own)
        images = [file for file in own if file not in own_labels]
        if not images and any(reason.startswith("DICOM") for reason in inside.unused.values()):
            series = [file for file, reason in inside.unused.items() if reason.startswith("DICOM")]
            found.unused = {file: why for file, why in found.unused.items() if file not in series}
            images = [folder]  # slices beside their label
        if len(own_labels) > 1:
            shown = ", ".join(file.name for file in own_labels)
            raise DataError(f"{folder}: {len(own_labels)} labels of one case, {shown}. Keep one of them there.")
        if not images:
            found.unused |= {str(file): "a label without an image" for file in own_labels}
            continue
        joined, modality, left_out = join_channels(images, endings, [case], case, channels)
        if len(joined) > 1:
            ends = ", ".join(file.name for file in images)
            raise DataError(
                f"{folder}: {len(images)} scans of one case, {ends}. Name the one to take, or those that are its "
                "channels, by the ends of their names, e.g. --channels T1,FLAIR."
            )
        found.modality = found.modality or modality
        found.unused |= {str(file): "not one of --channels" for file in left_out}
        [scans[case]] = joined.values()
        if own_labels:
            drawn[case] = own_labels[0]
    found.cases = [Case(name, image, str(drawn[name]) if name in drawn else None) for name, image in scans.items()]
    if labels is not None:
        found.cases = pair(scans, list_folder(labels).scans)
    return found


def _folders_with_scans(folder: Path) -> list[Path]:
    """The folder and those below it that hold scan files themselves."""
    below = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    own = [folder] if any(map(_is_scan_file, folder.iterdir())) else []
    return own or [found for entry in below for found in _folders_with_scans(entry)]


def _holds_scan_files(folder: Path) -> bool:
    return any(_is_scan_file(Path(place, name)) for place, _, files in os.walk(folder) for name in files)


def _is_scan_file(file: Path) -> bool:
    return not file.name.startswith(".") and file.name.lower().endswith(SCAN_SUFFIXES) and file.is_file()
