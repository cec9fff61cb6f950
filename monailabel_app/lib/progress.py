# SPDX-License-Identifier: Apache-2.0
"""How far the newest training is, read from its run folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from scripts.handlers.run_log import RunLog

from .settings import Settings


def training_stats(settings: Settings) -> dict[str, Any]:
    """What clients show of the newest training; empty before the first.

    Returns:
        ``epoch``, ``total_epochs``; ``best_metric``, mean foreground Dice on the validation scans (0 without any);
        ``total_time`` in seconds once it has finished; ``labeled``, ``unlabeled``, ``validation``: numbers of scans
        that it takes (a supervised one takes no unlabelled ones);
        ``model``: the run's folder.
    """
    pattern = re.compile(re.escape(settings.name) + r"(_\d+)?")
    written = [
        path
        for name in ("config.json", "train_log.jsonl")
        for path in settings.models_dir.glob(f"*/{name}")
        if pattern.fullmatch(path.parent.name)
    ]
    if not written:
        return {}
    folder = max(written, key=lambda path: path.stat().st_mtime).parent  # an older run may have been taken up again
    config = json.loads((folder / "config.json").read_text())
    datalist = json.loads(Path(config["dataset_dir"], config["datalist_name"]).read_text())
    takes_unlabeled = config["train"]["unlabeled"]["dataset"]["data"] != []
    records = RunLog(folder / "train_log.jsonl").read()
    epochs = [record for record in records if "seconds" in record]
    scores = [record["validation"]["val_mean_dice"] or 0 for record in records if "validation" in record]
    stats = {
        "epoch": epochs[-1]["epoch"] if epochs else 0,
        "total_epochs": config["max_epochs"],
        "best_metric": max(scores, default=0),
        "labeled": len(datalist["training"]),
        "unlabeled": len(datalist["unlabeled"]) if takes_unlabeled else 0,
        "validation": len(datalist["validation"]),
        "model": folder.name,
    }
    if (folder / "run.json").exists():
        stats["total_time"] = round(sum(record["seconds"] for record in epochs), 1)
    return stats
