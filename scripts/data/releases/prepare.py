# SPDX-License-Identifier: Apache-2.0
"""From a public data set as its owners release it to NIfTI files and, with the benchmark's lists, to datalists."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...errors import DataError
from ...files import save_text
from ...progress import track
from ..datalist.cases import lines_of
from ..datalist.split import split_cases
from ..datalist.write import write_datalist
from ..io.formats.nifti import save_nifti
from .acdc import ACDC
from .brats2019 import BRATS2019
from .left_atrium import LEFT_ATRIUM
from .pancreas_ct import PANCREAS
from .release import Release, Scan

RELEASES: dict[str, Release] = {
    "left_atrium": LEFT_ATRIUM,
    "pancreas": PANCREAS,
    "brats2019": BRATS2019,
    "acdc": ACDC,
}
RECORD_FILE = "preparation.json"
LISTS = ("train", "val", "test")

logger = logging.getLogger(__name__)


def prepare_release(
    dataset: str,
    source: str | os.PathLike,
    output: str | os.PathLike,
    benchmark: bool = False,
    lists: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[str]:
    """Write ``images/CASE.nii.gz`` and ``labels/CASE.nii.gz`` of every case of a release.

    By default scans stay whole and their intensities untouched; the configs do the rest, for any scan alike. The
    preparation that published figures rest on crops to the ground truth (left atrium, pancreas), training and test
    scans alike: an oracle, to be had with ``benchmark``.

    Cases that are there already are kept, so an interrupted call continues; each file is written completely or not at
    all. A folder holds one preparation, which ``preparation.json`` names.

    Args:
        dataset: ``left_atrium``, ``pancreas``, ``brats2019`` or ``acdc``.
        source: folder of the unpacked release; the cases may lie at any depth.
        output: folder to write to.
        benchmark: whether to prepare as the semi-supervised benchmark does.
        lists: folder of its ``train.list`` (or ``.txt``), ``test.list`` and, for BraTS, ``val.list``; default:
            ``source``. Where they are, its splits are written as ``datalist_N.json``, N labelled cases.
        progress: whether to show a progress bar.

    Returns:
        The datalists written; empty where there are no lists. Those of ``acdc`` keep each patient in one section.

    Raises:
        DataError: when the release or a listed case is not there, ``output`` holds another preparation, or scans cannot
            be used (all such are named, after the sound ones are written).

    Source: ours; each benchmark's preparation is described with its release.
    """
    source, output = Path(source), Path(output)
    release = RELEASES.get(dataset)
    if release is None:
        raise DataError(f"{dataset}: no such data set. Name one of {', '.join(RELEASES)} or decathlon:Task04.")
    if benchmark and release.benchmark is None:
        raise DataError(f"{dataset}: has no benchmark preparation. Leave out --benchmark.")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder. Name the folder of the unpacked release with --source.")
    if lists is not None and not Path(lists).is_dir():
        raise DataError(f"{lists}: no such folder. Name the folder of train.list and test.list with --lists.")
    cases = dict(release.find(source))
    if not benchmark:
        for copy in release.copies:
            if cases.pop(copy, None) is not None:
                logger.warning("%s is left out: it shows the same scan as another case.", copy)
    if not cases:
        raise DataError(f"{source}: no case of {release.title} in it. Looked below it for {release.layout}.")
    if benchmark and release.oracle:
        logger.warning(
            "These scans, test scans too, are cropped around their ground truth: for published figures only."
        )
    splits = _read_lists(Path(lists or source), cases, release, benchmark)
    if release.patients is not None and not splits:
        splits = release.patients(cases, cases)
    _claim(output, dataset, benchmark)
    _write_cases(cases, release, output, benchmark, progress)
    return _write_splits(splits, release, output)


def _read_lists(folder: Path, cases: Mapping[str, object], release: Release, benchmark: bool) -> dict[str, list[str]]:
    """{train, val, test: case names} of the lists in a folder, without copies that are not prepared."""
    splits, problems = {}, []
    for name in LISTS:
        path = next((path for path in (folder / f"{name}.list", folder / f"{name}.txt") if path.is_file()), None)
        if path is None:
            continue
        splits[name] = []
        for listed in map(_case_name, lines_of(path)):
            if listed in cases:
                splits[name].append(listed)
            elif listed in release.copies:
                logger.warning("%s: %s is left out, a copy of another case's scan.", path, listed)
            else:
                problems.append(f"{path}: {listed} is not in the release. Unpack all of it, or correct the list.")
    if problems:
        raise DataError(problems)
    return splits if "train" in splits else {}


def _case_name(line: str) -> str:
    """The case of a line such as ``image0001``, ``image0001_norm.h5``, ``CASE/mri_norm2.h5``."""
    return re.sub(r"(/mri_norm2|_norm)?(\.h5)?$", "", line.split(",")[0].strip())


def _claim(output: Path, dataset: str, benchmark: bool) -> None:
    """Note in the folder what it holds; refuse a folder that holds something else."""
    record = output / RECORD_FILE
    wanted = {"dataset": dataset, "preparation": "benchmark" if benchmark else "whole scans"}
    if not record.is_file():
        if output.exists() and not output.is_dir():
            raise DataError(f"{output}: a file. Name a folder to write to.")
        save_text(json.dumps(wanted, indent=1) + "\n", record)
        return
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{record}: not JSON ({error}). Remove the folder, or name another one.") from error
    if found != wanted:
        raise DataError(
            f"{output}: holds {found}, not {wanted}. Name another folder, so that the two do not get mixed."
        )


def _write_cases(
    cases: Mapping[str, tuple[Path, Path]], release: Release, output: Path, benchmark: bool, progress: bool
) -> None:
    problems: list[str] = []
    for name, files in track(cases.items(), len(cases), "Preparing", progress):
        image_path, label_path = (output / role / f"{name}.nii.gz" for role in ("images", "labels"))
        if image_path.exists() and label_path.exists():
            continue
        try:
            scan = _prepared(release, name, files, benchmark)
        except DataError as error:
            problems += error.problems
            continue
        save_nifti(scan.label, scan.affine, label_path)
        save_nifti(scan.image, scan.affine, image_path)
    if problems:
        raise DataError(problems)


def _prepared(release: Release, name: str, files: tuple[Path, Path], benchmark: bool) -> Scan:
    scan = release.read(*files)
    for path, voxels in zip(files, (scan.image, scan.label), strict=True):
        if benchmark and not voxels.any():
            raise DataError(f"{path}: zeros only, so there is nothing to crop to. Download it again, or leave it out.")
    return release.benchmark(scan, name) if benchmark else scan


def _write_splits(splits: Mapping[str, Iterable[str]], release: Release, output: Path) -> list[str]:
    for name, cases in splits.items():
        save_text("".join(f"{case}\n" for case in cases), output / f"{name}.list")
    if not splits:
        return []
    datalists = []
    train, group = list(splits["train"]), None if release.patients is None else "^(.+)_"
    for labeled in release.labeled:
        of_patients = list(dict.fromkeys(case.rsplit("_", 1)[0] for case in train))[:labeled]
        count = labeled if group is None else sum(case.rsplit("_", 1)[0] in of_patients for case in train)
        if labeled <= (len(train) if group is None else len(of_patients)):
            datalist = split_cases(
                output / "train.list", names=release.classes, labeled=count, group=group, progress=False
            )
            datalists.append(write_datalist(datalist, output / f"datalist_{labeled}.json", overwrite=True))
    return datalists
