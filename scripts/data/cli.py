# SPDX-License-Identifier: Apache-2.0
"""The command line ``dualseg`` (split, check, convert, prepare); in the bundle ``python -m scripts.data``."""

# No postponed annotations here: Fire shows them as they are.

import functools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from .atomic import save_text
from .check import DataReport, inspect_data
from .convert import convert_scans
from .datalist import SECTIONS, load_datalist
from .decathlon import PREFIX, prepare_decathlon
from .errors import DataError
from .locations import prediction_name
from .prepare import RELEASES, prepare_release
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
        save_text(json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n", target)
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


def prepare(
    dataset: str,
    output: str,
    *,
    source: str | None = None,
    benchmark: bool = False,
    lists: str | None = None,
) -> None:
    """Turn a public release into NIfTI files; cases that are there already are kept, so an interrupted call continues.

    Scans stay whole, their intensities untouched. With --benchmark they are prepared as for published figures, which
    crop the scans of the left atrium and the pancreas around the ground truth, test scans too. That is an oracle: a new
    scan cannot be prepared like this. Use it to compare with such figures, and for nothing else.

    Args:
        dataset: decathlon:Task01 to decathlon:Task10, which are downloaded, or one that you have downloaded, which is
            left_atrium (2018 Atrial Segmentation Challenge, CASE/lgemri.nrrd and CASE/laendo.nrrd), pancreas (NIH
            Pancreas-CT, PANCREAS_0001/.../*.dcm and label0001.nii.gz) or brats2019 (CASE/CASE_flair.nii.gz and
            CASE/CASE_seg.nii.gz).
        output: folder to write to.
        source: folder of the unpacked release, the cases at any depth; for the Decathlon the archive, where it has been
            downloaded already.
        benchmark: prepare as the semi-supervised benchmark does.
        lists: folder of the benchmark's train.list, test.list (and val.list); default is the source. With them its
            splits are written, e.g. datalist_8.json with 8 labelled cases.
    """
    dataset, output, source, lists = str(dataset), str(output), _text(source), _text(lists)
    console = Console()
    if dataset.startswith(PREFIX):
        if benchmark or lists:
            raise DataError(f"{dataset}: has no benchmark preparation and no lists. Leave out --benchmark and --lists.")
        folder, datalists, names = prepare_decathlon(dataset.removeprefix(PREFIX), output, source), [], ""
    elif source is None:
        raise DataError(f"{dataset}: must be downloaded by you, under its terms. Name its folder with --source.")
    else:
        folder, datalists = output, prepare_release(dataset, source, output, benchmark, lists)
        names = f' --names "{",".join(RELEASES[dataset].classes)}"'
    console.print(f"prepared: {folder}", highlight=False, soft_wrap=True)
    for path in datalists:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if not datalists:
        console.print(f"next: dualseg split {folder} --labeled N --test N{names}", highlight=False, soft_wrap=True)


def _text(word: Any) -> str | None:
    return None if word is None else str(word)


def _show(report: DataReport) -> None:
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:  # a file or a pipe has room for whole names
        console.width = 200
    console.print(_table_of_scans(report))
    console.print(_table_of_classes(report))
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


def _table_of_scans(report: DataReport) -> Table:
    narrow = [Column(name, no_wrap=True) for name in ("size", "mm", "axes", "intensity", "found")]
    table = Table(Column("case", overflow="fold"), *narrow, title="Scans", box=SIMPLE_HEAD)
    section = None
    for case in report.cases:
        if case.section != section:
            section = case.section
            table.add_section()
            table.add_row(f"[bold]{section}")
        table.add_row(
            Text(prediction_name(case.image)),
            "x".join(map(str, case.shape)),
            "x".join(f"{length:.3g}" for length in case.spacing),
            case.orientation,
            "\n".join(f"{channel['minimum']:.4g}..{channel['maximum']:.4g}" for channel in case.intensity),
            "[red]error" if case.errors else "[yellow]warning" if case.warnings else "ok",
        )
    return table


def _table_of_classes(report: DataReport) -> Table:
    """How large each structure is; the volumes of each case are in the JSON report."""
    narrow = [Column(name, no_wrap=True, justify="right") for name in ("cases", "ml: least", "median", "most")]
    table = Table("class", *narrow, title="Labels", box=SIMPLE_HEAD)
    labelled = [case.label_volumes for case in report.cases if case.label_voxels]
    for value, name in list(report.labels.items())[1:]:
        volumes = [case[value] for case in labelled if case.get(value)]
        figures = (np.min(volumes), np.median(volumes), np.max(volumes)) if volumes else ()
        shown = [f"{figure:.3g}" for figure in figures]
        table.add_row(Text(f"{value} {name}"), f"{len(volumes)} of {len(labelled)}", *shown)
    return table


COMMANDS: dict[str, Callable[..., int | None]] = {
    "split": split,
    "check": check,
    "convert": convert,
    "prepare": prepare,
}


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
