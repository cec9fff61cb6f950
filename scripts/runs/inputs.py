# SPDX-License-Identifier: Apache-2.0
"""What a run is made of, beside its config: is it still the same when the run is resumed?"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..data.datalist.read import SECTIONS, case_files
from ..data.io.content import digest_of_code
from ..data.io.formats.hdf5 import split_dataset
from ..errors import DataError
from ..ranks import is_main_process, world_size
from .run import Run

__all__ = ["compare_inputs"]

logger = logging.getLogger(__name__)

HEAD = 2**16  # bytes read of each file


def compare_inputs(folder: str | os.PathLike, datalist: Mapping[str, Any]) -> list[str]:
    """Note datalist, scans, code and number of processes of a run; of a resumed one say what has changed (ours).

    A scan counts as the same when its size and its first 64 KiB are. A change is a warning and stays in the run's
    record: the run goes on, but its result is not that of the one command in its config.

    Args:
        folder: the run's folder.
        datalist: as :func:`~..data.load_datalist` gives it.

    Returns:
        What has changed, one sentence each; on all processes but the first always nothing.
    """
    if not is_main_process():
        return []
    run = Run(folder)
    now = _inputs(datalist)
    try:
        before = run.inputs() if run.can_resume else None
    except DataError as error:
        logger.warning("%s Datalist and scans cannot be compared with those at the start of the run.", error)
        before = None
    if before is None:
        run.note_inputs({**now, "changes": []})
        return []
    changes = list(_changes(before, now))
    for change in changes:
        logger.warning("%s is resumed, but %s", run.folder, change)
    if set(changes) - set(before["changes"]):
        run.note_inputs({**before, "changes": [*before["changes"], *changes]})
    return changes


def _inputs(datalist: Mapping[str, Any]) -> dict[str, Any]:
    files = {
        section: [[str(split_dataset(file)[0]) for file in case_files(case)] for case in datalist[section]]
        for section in SECTIONS
    }
    every = sorted({file for cases in files.values() for case in cases for file in case})
    root = os.path.commonpath([os.path.dirname(file) for file in every])
    names = {file: Path(os.path.relpath(file, root)).as_posix() for file in every}
    sections = {section: [[names[file] for file in case] for case in cases] for section, cases in files.items()}
    annotated = [case.get("classes") for section in SECTIONS for case in datalist[section]]
    listed = [sections, datalist["labels"], datalist.get("ignore"), annotated]
    if regions := datalist.get("regions"):  # only then: runs from before there were such go on without a warning
        listed.append(regions)
    return {
        "datalist": hashlib.sha256(json.dumps(listed, default=str).encode()).hexdigest(),
        "scans": {names[file]: _digest(Path(file)) for file in every},
        "code": digest_of_code(Path(__file__).parents[1]),
        "versions": {name: version(name) for name in ("monai", "torch", "numpy")},
        "processes": world_size(),
    }


def _digest(path: Path) -> str:
    """Of the file, or of those in a folder with a DICOM series: size and first bytes."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as content:
                digest.update(f"{file.stat().st_size} ".encode() + content.read(HEAD))
    return digest.hexdigest()[:16]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before["datalist"] != now["datalist"]:
        yield "its datalist lists other cases or classes than at the start."
    scans = [name for name, digest in now["scans"].items() if before["scans"].get(name, digest) != digest]
    if scans:
        yield f"{len(scans)} scans are not those of the start, {scans[0]} first."
    if before["code"] != now["code"]:
        yield "the code of the package has changed since its start."
    for name, there in before["versions"].items():
        if there != now["versions"].get(name):
            yield f"it began with {name} {there}, here is {now['versions'].get(name)}."
    if before["processes"] != now["processes"]:
        yield f"it began with {before['processes']} processes, here are {now['processes']}."
