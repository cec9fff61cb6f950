# SPDX-License-Identifier: Apache-2.0
"""Find the scans of a data set, and the label of each, in whatever way it is laid out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from ..io.formats.names import case_name
from .layouts.bids import from_bids, is_bids
from .layouts.case import Case, CaseCollection
from .layouts.dataset_json import from_dataset_json
from .layouts.folder import from_folder, with_unlabeled
from .layouts.lists import from_csv, from_list, lines_of

__all__ = ["Case", "CaseCollection", "case_name", "collect_cases", "lines_of"]


def collect_cases(
    source: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    unlabeled: str | os.PathLike | None = None,
    channels: Sequence[str] | None = None,
) -> CaseCollection:
    """Find the cases of a data set.

    Args:
        source: one of: a folder with ``images`` and ``labels`` (or ``imagesTr`` and ``labelsTr``) in it; a folder of
            images, or of a folder for each case; a BIDS data set; a ``dataset.json`` of nnU-Net or the Decathlon, or
            the folder that has it; a CSV table with the columns image and label; a benchmark ``.list`` file of case
            names (``test.list`` and ``val.list`` beside ``train.list`` give the held-out cases).
        labels: the folder of labels, where it is not beside the images. Files belong together by name; endings like
            ``_seg``, ``_label`` or ``_0000`` do not count.
        unlabeled: a folder of further scans without labels; default: ``unlabeled`` or ``imagesTs`` beside the images.
        channels: endings of the files of a case that are its channels, in their order; default: nnU-Net's numbers, or
            those of BraTS.

    Raises:
        DataError: when there are no images, or a label that fits none, or two that fit one.

    Source: ours.
    """
    found = _collected(Path(source), labels, unlabeled, channels)
    found.source = str(source)
    return found


def _collected(
    source: Path,
    labels: str | os.PathLike | None,
    unlabeled: str | os.PathLike | None,
    channels: Sequence[str] | None,
) -> CaseCollection:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder. Name a folder of scans, a dataset.json or a .list file.")
    if source.is_dir() and (source / "dataset.json").is_file() and labels is None:
        source = source / "dataset.json"
    further = Path(unlabeled) if unlabeled is not None else None
    if further is not None and not further.is_dir():
        raise DataError(f"{further}: no such folder. Name the folder of further scans with --unlabeled.")
    if source.is_dir():
        folder = Path(labels) if labels is not None else None
        if not is_bids(source):
            return from_folder(source, folder, further, channels)
        found = from_bids(source, folder, channels)
    else:
        readers = {".json": from_dataset_json, ".list": from_list, ".csv": from_csv, ".tsv": from_csv}
        if source.suffix.lower() not in readers:
            raise DataError(f"{source}: neither a folder, nor a dataset.json, a .csv or a .list file.")
        if labels is not None or channels:
            raise DataError(f"{source}: names its files itself. Leave out --labels and --channels.")
        found = readers[source.suffix.lower()](source)
    return found if further is None else with_unlabeled(found, further)
