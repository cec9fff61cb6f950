# SPDX-License-Identifier: Apache-2.0
"""Datalists with fewer labels, or all, made by a rule from those of a data set, in a folder of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from records import ROOT

sys.path.insert(0, str(ROOT))
from scripts.data import load_datalist, write_datalist


def folder_with(dataset_dir: Path, labels: str, work: Path) -> Path:
    """The folder that has ``datalist_LABELS.json``: that of the data set, or ``work``, where it is made.

    Fewer labels: the first ones of the next longer list; the other labelled scans become unlabelled. All: the
    unlabelled scans of the longest list get their labels, which lie where those of the labelled ones do. Test scans
    stay.

    Args:
        dataset_dir: folder of the datalists.
        labels: a number, or ``all``.
        work: folder for a datalist that is made.

    Raises:
        SystemExit: when there is no list to make it from, or a label is missing.
    """
    name = f"datalist_{labels}.json"
    if (dataset_dir / name).exists():
        return dataset_dir
    numbers = [path.stem.rpartition("_")[2] for path in dataset_dir.glob("datalist_*.json")]
    counts = sorted(int(number) for number in numbers if number.isdigit())
    longer = counts[-1:] if labels == "all" else [count for count in counts if count > int(labels)][:1]
    if not longer:
        raise SystemExit(f"{dataset_dir}: has no {name}, and no datalist_N.json to make it from.")
    source = load_datalist(dataset_dir / f"datalist_{longer[0]}.json")
    made = _with_all(source) if labels == "all" else _with_first(source, int(labels))
    work.mkdir(parents=True, exist_ok=True)
    write_datalist({**made, "labels": {str(key): name for key, name in made["labels"].items()}}, work / name, True)
    return work


def _with_first(datalist: dict[str, Any], count: int) -> dict[str, Any]:
    labelled = datalist["training"]
    unlabelled = [{"image": case["image"]} for case in labelled[count:]]
    return {**datalist, "training": labelled[:count], "unlabeled": unlabelled + datalist["unlabeled"]}


def _with_all(datalist: dict[str, Any]) -> dict[str, Any]:
    example = datalist["training"][0]
    folders = os.path.dirname(example["image"]), os.path.dirname(example["label"])
    further = []
    for case in datalist["unlabeled"]:
        label = case["image"].replace(*folders, 1)
        if not os.path.exists(label):
            raise SystemExit(f"{label}: missing, so there is no datalist in which all scans are labelled.")
        further.append({**example, "image": case["image"], "label": label})
    return {**datalist, "training": datalist["training"] + further, "unlabeled": []}
