# SPDX-License-Identifier: Apache-2.0
"""Whether a new model takes the place of the one in use: only if it is no worse on the same scans."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from scripts.data import DataError, load_datalist
from scripts.runs import Run, finish_stopped_run, save_model_so_far

from ..settings import Settings
from .ledger import change_ledger, read_ledger
from .model import Model, model_in_use, model_of_run
from .quality import mean_dice

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What became of the model of a training.

    Attributes:
        taken: whether it was put in use.
        score: its mean foreground Dice.
        rival: name of the model that was in use; None when there was none.
        rival_score: the Dice of that one on the same scans; None when there was none.
        scans: number of these scans.
        held_back: whether both had been trained without them; if not, they are the labelled scans themselves.
        labels: number of labels that the training knew, validation included.
        epoch: of the training that the model is from.
        judged: when.
    """

    taken: bool
    score: float
    rival: str | None
    rival_score: float | None
    scans: int
    held_back: bool
    labels: int
    epoch: int
    judged: str

    def sentence(self, name: str) -> str:
        """For the client."""
        scans = f"{self.scans} {'validation' if self.held_back else 'labelled'} scan{'s' * (self.scans != 1)}"
        score = f"Dice {self.score:.3f} on {scans}"
        if self.rival is None:
            return f"{name} is the first model and in use: {score}."
        if self.taken:
            return f"{name} is in use now: {score}, {self.rival} had {self.rival_score:.3f}."
        return f"{self.rival} stays in use: Dice {self.rival_score:.3f} on {scans}, {name} has {self.score:.3f}."


def read_datalist(run: Run) -> dict[str, Any]:
    """The scans of a run, by section."""
    config = run.config()
    return load_datalist(Path(config["dataset_dir"], config["datalist_name"]))


def read_verdicts(settings: Settings) -> dict[str, Verdict]:
    """The verdict of each judged training, by the name of its run."""
    return {name: Verdict(**entry) for name, entry in read_ledger(settings)["verdicts"].items()}


def settle_run(settings: Settings, run: Run, device: torch.device) -> Verdict:
    """Compare the model of a run with the one in use, put the better one in use and write that down (ours).

    Both segment the same scans: the validation scans of the training or, where it had none, all its labelled scans, on
    which a training that went wrong shows as well. The new one is taken if its Dice is not lower. The first model of
    all is taken as it is.

    Args:
        settings: of the server.
        run: finished, or with its model so far saved.
        device: to compute on.
    """
    datalist, cases = read_datalist(run), _scans(run)
    candidate, rival = model_of_run(settings, run), model_in_use(settings, other_than=run.folder.name)

    def dice(model: Model) -> float:
        return round(mean_dice(model, cases, settings.bundle, device), 4)

    score, rival_score = dice(candidate), None if rival is None else dice(rival)
    verdict = Verdict(
        taken=rival is None or score >= rival_score,
        score=score,
        rival=None if rival is None else rival.name,
        rival_score=rival_score,
        scans=len(cases),
        held_back=bool(datalist["validation"]),
        labels=len(datalist["training"]) + len(datalist["validation"]),
        epoch=run.choice()["epoch"],
        judged=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    if verdict.taken and not run.is_finished:
        finish_stopped_run(run.folder)
    with change_ledger(settings) as ledger:
        ledger["verdicts"][run.folder.name] = asdict(verdict)
        if verdict.taken:
            ledger["in_use"] = run.folder.name
        elif ledger["in_use"] is None:
            ledger["in_use"] = rival.name
    if run.is_finished:
        run.drop_state()
    logger.info(verdict.sentence(run.folder.name))
    return verdict


def settle_stopped(settings: Settings, run: Run, device: torch.device) -> Verdict | None:
    """Keep what a stopped training has: its best model so far is judged as that of a finished one (ours).

    Taken into use, the run is finished. If not, it stays as it is, and the same request continues it.

    Returns:
        None when there is nothing new to judge: no epoch behind it, or the model that was judged before.
    """
    epoch = save_model_so_far(run.folder)
    former = read_verdicts(settings).get(run.folder.name)
    if epoch is None or (former is not None and former.epoch == epoch):
        return None
    return settle_run(settings, run, device)


def settle_leftovers(settings: Settings, datalist_name: str, device: torch.device) -> None:
    """Judge what was cut off before it was judged: finished trainings, and those of other labels than now (ours).

    Args:
        settings: of the server.
        datalist_name: of the training that is about to start; an unfinished one with the same may be continued by it.
        device: to compute on.
    """
    verdicts = read_verdicts(settings)
    last = max((verdict.judged for verdict in verdicts.values()), default=None)
    for run in reversed(Run.find(settings.models_dir, settings.name)):
        try:
            read_datalist(run)
        except DataError as error:
            logger.info("%s is not judged: %s", run.folder.name, error)  # a scan or a label was removed since
            continue
        if not run.is_finished:
            if run.config()["datalist_name"] != datalist_name:
                settle_stopped(settings, run, device)
        elif last is not None and run.folder.name not in verdicts and run.record()["finished"] >= last:
            settle_run(settings, run, device)


def _scans(run: Run) -> list[dict[str, Any]]:
    """On which a run is judged: its validation scans or, where it has none, all labelled ones."""
    datalist = read_datalist(run)
    return datalist["validation"] or datalist["training"]
