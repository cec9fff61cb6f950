# SPDX-License-Identifier: Apache-2.0
"""How far the newest training is, and which models there are, read from the run folders."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scripts.runs import Run

from .models import SHIPPED, all_models, model_in_use, read_verdicts
from .settings import Settings


def training_stats(settings: Settings) -> dict[str, Any]:
    """What clients show of the newest training and of all models; without ``epoch`` before the first.

    Returns:
        ``epoch``, ``total_epochs``; ``best_metric``, mean foreground Dice on the validation scans (0 without any);
        ``total_time`` in seconds once it has finished; ``labeled``, ``unlabeled``, ``validation``: numbers of scans
        that it takes (a supervised one takes no unlabelled ones); ``left_out``: of each unlabelled scan that cannot be
        read, what is wrong; ``model``: the run's folder; ``verdict``: a sentence
        on what became of its model. ``in_use``, name of the model in use; ``models``, see :func:`list_models`.
    """
    models = list_models(settings)
    if not models and not Run.find(settings.models_dir, settings.name):
        return {}
    in_use = next((entry["name"] for entry in models if entry["in_use"]), None)
    return {**_newest_training(settings), "in_use": in_use, "models": models}


def list_models(settings: Settings) -> list[dict[str, Any]]:
    """Every model that can be chosen, the newest first.

    Returns:
        Of each ``name``, ``date`` (UTC; None for the shipped one), ``in_use``; ``seconds`` of its training, but for the
        shipped one; where it was judged, ``labels`` (how many its training knew), ``score`` (mean foreground Dice),
        ``scans`` (on how many), ``held_back`` (whether these were kept from training).
    """
    verdicts, used = read_verdicts(settings), model_in_use(settings)
    entries = []
    for model in all_models(settings):
        date = datetime.fromtimestamp(model.trained, timezone.utc).isoformat() if model.trained else None
        entry = {"name": model.name, "date": date, "in_use": model == used}
        if model.name != SHIPPED:
            entry["seconds"] = round(Run(settings.models_dir / model.name).training_seconds(), 1)
        if model.name in verdicts:
            verdict = verdicts[model.name]
            entry |= {name: getattr(verdict, name) for name in ("labels", "score", "scans", "held_back")}
        entries.append(entry)
    return entries


def _newest_training(settings: Settings) -> dict[str, Any]:
    runs = Run.find(settings.models_dir, settings.name)
    if not runs:
        return {}
    run = runs[0]  # not the one with the highest number: an older run may have been taken up again
    config = run.config()
    datalist = json.loads(Path(config["dataset_dir"], config["datalist_name"]).read_text())
    takes_unlabeled = config["train"]["unlabeled"]["dataset"]["data"] != []
    records = run.log.read()
    epochs = [record for record in records if "seconds" in record]
    scores = [record["validation"]["val_mean_dice"] or 0 for record in records if "validation" in record]
    stats = {
        "epoch": epochs[-1]["epoch"] if epochs else 0,
        "total_epochs": config["max_epochs"],
        "best_metric": max(scores, default=0),
        "labeled": len(datalist["training"]),
        "unlabeled": len(datalist["unlabeled"]) if takes_unlabeled else 0,
        "validation": len(datalist["validation"]),
        "left_out": list(datalist.get("left_out", {}).values()),
        "model": run.folder.name,
    }
    if run.is_finished:
        stats["total_time"] = round(sum(record["seconds"] for record in epochs), 1)
    if (verdict := read_verdicts(settings).get(run.folder.name)) is not None:
        stats["verdict"] = verdict.sentence(run.folder.name)
    return stats
