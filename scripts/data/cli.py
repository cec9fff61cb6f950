# SPDX-License-Identifier: Apache-2.0
"""The command line: ``dualseg split``, ``check`` and ``convert``; in the bundle ``python -m scripts.data``."""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from .check import DataReport, inspect_data
from .convert import convert_scans
from .datalist import SECTIONS, load_datalist
from .errors import DataError
from .split import split_cases, write_datalist

__all__ = ["main"]


def split(
    source: str,
    *,
    output: str | None = None,
    labels: str | None = None,
    names: str | None = None,
    labeled: float | None = None,
    validation: float = 0,
    test: float = 0,
    seed: int = 0,
    shuffle: bool | None = None,
    group: str | None = None,
    overwrite: bool = False,
) -> None:
    """Make a datalist from a folder of scans, a dataset.json or a benchmark's .list file.

    Args:
        source: folder with images/ and labels/ in it (or imagesTr/ and labelsTr/), folder of images, dataset.json of
            nnU-Net or the Decathlon, or train.list of the benchmark.
        output: the datalist to write; default: datalist.json in the source's folder.
        labels: folder of the labels, where it is not beside the images.
        names: of the classes, from 0 on, by commas: background,heart. Default: from dataset.json, or "class N".
        labeled: number or fraction of cases to keep the label of for training; default: all that have one.
        validation: number or fraction of validation cases.
        test: number or fraction of test cases.
        seed: of the shuffling.
        shuffle: False for the given order: labelled cases from the start, test cases from the end.
        group: regular expression for the patient in the case name; no patient gets into two sections.
        overwrite: replace a datalist that is there.
    """
    # Fire turns words that look like numbers or lists into such: a folder named 2019, classes a,b.
    source, labels, group = str(source), _text(labels), _text(group)
    classes = [str(name) for name in names] if isinstance(names, (list, tuple)) else _text(names)
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    target = Path(_text(output) or folder / "datalist.json")
    datalist = split_cases(source, labels, classes, labeled, validation, test, seed, shuffle, group)
    path = write_datalist(datalist, target, overwrite)
    console = Console()
    console.print(", ".join(f"{len(datalist[section])} {section}" for section in SECTIONS), highlight=False)
    console.print(f"classes: {', '.join(f'{v} {n}' for v, n in datalist['labels'].items())}", highlight=False)
    console.print(f"written: {path}", highlight=False, soft_wrap=True)


def check(datalist: str, *, output: str | None = None, channels: int | None = None, workers: int | None = None) -> int:
    """Read every scan of a datalist once, show what it holds and what is wrong; exit code 1 when there are errors.

    Args:
        datalist: the JSON file, or the folder that has datalist.json.
        output: JSON file to write the full report to.
        channels: image channels the network takes; default: as many as the first case has.
        workers: scans read at a time; default: the number of processors, at most 8.
    """
    path = Path(str(datalist))
    path = path / "datalist.json" if path.is_dir() else path
    target = Path(str(output)) if output is not None else None
    if target is not None and target.exists() and target.samefile(path):
        raise DataError(f"{target}: the datalist itself. Name another file with --output.")
    for option, value in (("channels", channels), ("workers", workers)):
        if value is not None and not (isinstance(value, int) and value > 0):
            raise DataError(f"--{option} {value}: must be a whole number from 1 on.")
    report = inspect_data(load_datalist(path), None, channels, True, workers)
    _show(report)
    if target is not None:
        try:
            target.write_text(json.dumps(report.as_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"{target}: cannot be written ({error.strerror}). Name another file with --output."
            ) from error
    return 1 if report.errors else 0


def convert(
    source: str, output: str, *, spacing: tuple[float, float, float] | None = None, overwrite: bool = False
) -> None:
    """Write scans as NIfTI with their geometry, labels too: NRRD, MetaImage, DICOM series, benchmark HDF5.

    Args:
        source: a scan, a folder of one DICOM series, or a folder of scans.
        output: folder for the NIfTI files; below it the source's folders are kept.
        spacing: voxel size in mm of HDF5 files, e.g. 1,1,1; default: 0.625 for mri_norm2.h5, 1 for others.
        overwrite: replace files that are there.
    """
    files = convert_scans(str(source), str(output), spacing, overwrite)
    Console().print(f"{len(files)} files written to {output}", highlight=False, soft_wrap=True)


def _text(word: Any) -> str | None:
    return None if word is None else str(word)


def _show(report: DataReport) -> None:
    console = Console()
    if not console.is_terminal:  # a file or a pipe has room for whole names
        console.width = 200
    table = Table(Column("case", overflow="fold"), "size", "mm", "axes", "intensity", title="Scans")
    classes = {value: name for value, name in report.labels.items() if value}
    for name in classes.values():
        table.add_column(Text(f"{name} (ml)"), justify="right")
    table.add_column("found")
    section = None
    for case in report.cases:
        if case.section != section:
            section = case.section
            table.add_section()
            table.add_row(f"[bold]{section}")
        volumes = case.label_volumes
        state = "[red]error" if case.errors else "[yellow]warning" if case.warnings else "ok"
        table.add_row(
            Text(Path(case.image).name),
            "x".join(map(str, case.shape)),
            "x".join(f"{length:.3g}" for length in case.spacing),
            case.orientation,
            ", ".join(f"{channel['minimum']:.4g}..{channel['maximum']:.4g}" for channel in case.intensity),
            *(f"{volumes.get(value, 0):.3g}" if case.label else "" for value in classes),
            state,
        )
    console.print(table)
    sections = Counter(case.section for case in report.cases)
    spacings = np.array([case.spacing for case in report.cases if case.spacing])
    console.print(", ".join(f"{sections[section]} {section}" for section in SECTIONS), highlight=False)
    if len(spacings):
        console.print(
            f"median spacing {' x '.join(f'{s:.3g}' for s in np.median(spacings, axis=0))} mm", highlight=False
        )
    for kind, colour, found in (("warning", "yellow", report.warnings), ("error", "red", report.errors)):
        for text in found:
            console.print(f"[{colour}]{kind}[/]: ", end="")
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(report.errors)} errors, {len(report.warnings)} warnings", highlight=False)


COMMANDS: dict[str, Callable[..., int | None]] = {"split": split, "check": check, "convert": convert}


class _Job:
    """A call that waits until Fire has understood the whole command line.

    Fire would run the command first and complain about a mistyped option afterwards: ``--labelled 8`` would write a
    datalist that uses every label.
    """

    def __init__(self, call: Callable[[], int | None]) -> None:
        self._call = call  # private: Fire offers public names as commands


def _deferred(command: Callable[..., int | None]) -> Callable[..., _Job]:
    @functools.wraps(command)
    def job(*arguments: Any, **options: Any) -> _Job:
        return _Job(lambda: command(*arguments, **options))

    return job


def main(command: list[str] | None = None) -> None:
    """Run a command; what is wrong with the data goes to stderr in one message, and the exit code is 1."""
    commands = {name: _deferred(function) for name, function in COMMANDS.items()}
    job = fire.Fire(commands, command=command, name="dualseg", serialize=lambda result: None)
    try:
        sys.exit((job._call() if isinstance(job, _Job) else 0) or 0)
    except DataError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(1)
