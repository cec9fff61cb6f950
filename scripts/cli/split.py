# SPDX-License-Identifier: Apache-2.0
"""``dualseg split``: a datalist from a folder of scans."""

# No postponed annotations here: Fire shows them as they are.

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..data.datalist.cases import collect_cases
from ..data.datalist.layouts.folder import DICOM_LABEL
from ..data.datalist.read import SECTIONS
from ..data.datalist.split import split_cases
from ..data.datalist.write import refuse_existing, write_datalist
from ..data.draw_labels import draw_labels
from ..data.incomplete_labels import take_ignored
from ..data.io.regions import REGIONS, regions_of_option
from .words import text, words

__all__ = ["split"]


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
    unlabeled: str | None = None,
    channels: str | None = None,
    values: Sequence[float] | None = None,
    stratify: bool = True,
    ignore: int | None = None,
    regions: str | None = None,
    segments: str | None = None,
    overwrite: bool = False,
) -> None:
    """Make a datalist from a folder of scans, a BIDS data set, a dataset.json, a CSV table or a benchmark's .list file.

    Example: dualseg split scans --labeled 8 --validation 2 --test 10

    Example: dualseg split BraTS --values 0,1,2,4 --regions "whole=1+2+4,core=1+4,enhancing=4" --test 0.2

    Example: dualseg split labelled --unlabeled other_scans --group '^(patient[0-9]+)_'

    Args:
        source: folder with images/ and labels/ in it (or imagesTr/ and labelsTr/), folder of images, folder of a folder
            for each case, BIDS data set, dataset.json of nnU-Net or the Decathlon, table with the columns image and
            label, or train.list of the benchmark.
        output: the datalist to write, as JSON lines if it is named NAME.jsonl; default: datalist.json in the source's
            folder.
        labels: folder of the labels, where it is not beside the images.
        names: of the classes, from 0 on, by commas: background,heart. Default: from dataset.json, or "class N".
        labeled: number or fraction of cases to keep the label of for training; default: all that have one.
        validation: number or fraction of validation cases.
        test: number or fraction of test cases.
        seed: of the shuffling.
        shuffle: False for the given order: labelled cases from the start, test cases from the end.
        group: regular expression for the patient in the case name; no patient gets into two sections.
        unlabeled: folder of further scans without labels; default is unlabeled/ or imagesTs/ beside the images.
        channels: ends of the names of the files that are the channels of a case, in their order, T1w,FLAIR or one
            alone. Default is nnU-Net's _0000, _0001, ... and the four of BraTS.
        values: of the classes in the label files where these are not 0, 1, 2, ..., by commas, 0,1,2,4 or 0,255.
        stratify: False not to read all labels so that rare classes get into all sections.
        ignore: label value of voxels that nobody has labelled, such as 255; they are left out everywhere.
        regions: unions of label values that overlap, to be scored in the place of the classes, as in
            "whole tumour=1+2+4,tumour core=1+4,enhancing tumour=4". Default is those of nnU-Net's dataset.json.
        segments: names of the structures in DICOM SEG and RTSTRUCT files that are the classes 1, 2, ..., by commas;
            default is all of them, by the alphabet. Their labels are written to dicom_labels/ beside the datalist.
        overwrite: replace a datalist that is there.
    """
    # Fire has turned a folder named 2019 into a number, and classes a,b into a tuple.
    source, labels, group = str(source), text(labels), text(group)
    classes = [str(name) for name in names] if isinstance(names, (list, tuple)) else text(names)
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    target = Path(text(output) or folder / "datalist.json")
    console = Console()
    found = collect_cases(source, labels, text(unlabeled), words(channels) or None)
    if DICOM_LABEL in found.unused.values():
        refuse_existing(target, overwrite)  # before labels are drawn
    found = draw_labels(found, target.parent, words(segments) or None, overwrite)
    console.print(found.summary, markup=False, highlight=False, soft_wrap=True)
    division = (labeled, validation, test, seed, shuffle, group)
    unions = None if regions is None else regions_of_option(regions)
    how = {"values": values, "stratify": stratify, "ignore": ignore, "regions": unions}
    datalist = split_cases(found, None, classes, *division, **how)
    path = write_datalist(datalist, target, overwrite)
    console.print(", ".join(f"{len(datalist[section])} {section}" for section in SECTIONS), highlight=False)
    ignored = take_ignored(target, datalist)  # which dataset.json may have named
    console.print(f"classes: {', '.join(f'{v} {n}' for v, n in datalist['labels'].items())}", highlight=False)
    if ignored is not None:
        console.print(f"ignored: {ignored}", highlight=False)
    for name, members in datalist.get(REGIONS, {}).items():
        console.print(f"region: {name}, classes {', '.join(map(str, members))}", markup=False, highlight=False)
    console.print(f"written: {path}", highlight=False, soft_wrap=True)
