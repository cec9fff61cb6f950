# SPDX-License-Identifier: Apache-2.0
"""Training under MONAI Label's own app for bundles, which passes on the labelled scans alone.

That app reads train.json and inference.json as they are: the first must train what the second can use.
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..data import DataError, write_datalist
from ..data.atomic import replace_file

__all__ = ["inference_setting", "install_weights", "studies_dataset"]

DATASTORE_FILE = "datastore_v2.json"
FINAL = "final"


def inference_setting(bundle_root: str, name: str) -> Any:
    """The value of a top-level key of the bundle's configs/inference.json, as it is written there (ours)."""
    return ConfigParser.load_config_file(os.path.join(bundle_root, "configs", "inference.json"))[name]


def studies_dataset(bundle_root: str, labels: dict[str, str]) -> str:
    """Make a datalist of the studies folder that MONAI Label serves: with a final label, and without (ours).

    Args:
        bundle_root: the datalist goes to ``data/studies`` in it.
        labels: value to name.

    Returns:
        The folder with ``datalist.json``, as ``dataset_dir`` wants it.

    Raises:
        DataError: when the studies are no local folder.
    """
    studies = os.environ["MONAI_LABEL_STUDIES"]
    path = Path(studies, DATASTORE_FILE)
    if not path.is_file():
        raise DataError(
            f"{path}: missing. MONAI Label's app for bundles finds unlabelled scans in a local folder only; for a "
            "DICOMweb or XNAT server start the bundle's own app, monailabel_app."
        )
    datastore = json.loads(path.read_text())
    images, finals = Path(studies, datastore["images_dir"]), Path(studies, datastore["labels_dir"], FINAL)
    datalist: dict[str, Any] = {"labels": labels, "training": [], "unlabeled": []}
    for name, entry in sorted(datastore["objects"].items()):
        case = {"image": os.path.realpath(images / (name + entry["image"]["ext"]))}
        if FINAL in entry["labels"]:
            case["label"] = os.path.realpath(finals / (name + entry["labels"][FINAL]["ext"]))
        datalist["training" if "label" in case else "unlabeled"].append(case)
    folder = Path(bundle_root, "data", "studies")
    write_datalist(datalist, folder / "datalist.json", overwrite=True)
    return str(folder)


def install_weights(output_dir: str, bundle_root: str) -> None:
    """Put a finished run's weights in use as ``models/model.pt``, at once or not at all (ours). First rank only.

    The weights that were in use stay beside it, named by their date.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    target = Path(bundle_root, "models", "model.pt")
    if target.exists():
        date = datetime.fromtimestamp(target.stat().st_mtime)
        # MONAI Label uses the file with the shortest name: this one is longer
        with replace_file(target.with_name(f"model_{date:%Y-%m-%d_%H%M%S}.pt")) as kept:
            shutil.copy2(target, kept)
    with replace_file(target) as new:
        shutil.copyfile(Path(output_dir) / "model.pt", new)
