# SPDX-License-Identifier: Apache-2.0
"""The command line: ``dualseg split``, ``check`` and ``convert``; in the bundle ``python -m scripts.data``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import numpy as np
from rich.console import Console
from rich.table import Table

from .check import DataReport, inspect_data
from .convert import convert_scans
from .datalist import SECTIONS, load_datalist
from .errors import DataError
from .split import split_cases, write_datalist

__all__ = ["main"]


def split(
    source: str,
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
    source = str(source)
    names_ = list(names) if isinstance(names, (list, tuple)) else names
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    datalist = split_cases(source, labels, names_, labeled, validation, test, seed, shuffle, group)
    path = write_datalist(datalist, output or folder / "datalist.json", overwrite)
    console = Console()
    console.print(", ".join(f"{len(datalist[section])} {section}" for section in SECTIONS), highlight=False)
    console.print(f"classes: {', '.join(f'{v} {n}' for v, n in datalist['labels'].items())}", highlight=False)
    console.print(f"written: {path}", highlight=False, soft_wrap=True)


def check(datalist: str, output: str | None = None, channels: int | None = None, workers: int | None = None) -> int:
    """Read every scan of a datalist once, show what it holds and what is wrong; exit code 1 when there are errors.

    Args:
        datalist: the JSON file, or the folder that has datalist.json.
        output: JSON file to write the full report to.
        channels: image channels the network takes; default: as many as the first case has.
        workers: scans read at a time; default: the number of processors, at most 8.
    """
    path = Path(str(datalist))
    report = inspect_data(
        load_datalist(path / "datalist.json" if path.is_dir() else path), None, channels, True, workers
    )
    _show(report)
    if output is not None:
        try:
            Path(output).write_text(json.dumps(report.as_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"{output}: cannot be written ({error.strerror}). Name another file with --output."
            ) from error
    return 1 if report.errors else 0


def convert(
    source: str, output: str, spacing: tuple[float, float, float] | None = None, overwrite: bool = False
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


def _show(report: DataReport) -> None:
    console = Console()
    table = Table("section", "case", "size", "spacing (mm)", "axes", "ch.", "intensity", title="Scans")
    for name in list(report.labels.values())[1:]:
        table.add_column(f"{name} (ml)", justify="right")
    table.add_column("found")
    for case in report.cases:
        volumes = case.label_volumes
        intensity = " ".join(f"{c['minimum']:.4g}..{c['maximum']:.4g}" for c in case.intensity)
        state = "[red]error" if case.errors else "[yellow]warning" if case.warnings else "ok"
        table.add_row(
            case.section,
            Path(case.image).name,
            " x ".join(map(str, case.shape)),
            " x ".join(f"{s:.3g}" for s in case.spacing),
            case.orientation,
            str(case.channels),
            intensity,
            *(f"{volumes.get(value, 0):.3g}" if case.label else "" for value in list(report.labels)[1:]),
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


COMMANDS: dict[str, Callable[..., Any]] = {"split": split, "check": check, "convert": convert}


def main(command: list[str] | None = None) -> None:
    """Run a command; what is wrong with the data goes to stderr in one message, and the exit code is 1."""
    try:
        code = fire.Fire(COMMANDS, command=command, name="dualseg", serialize=lambda code: None)
    except DataError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
