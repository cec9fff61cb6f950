# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from .atomic import replace_file

__all__ = ["RunState"]

logger = logging.getLogger(__name__)

STATE_FILE = "last.pt"


class RunState:
    """Makes a run resumable and leaves its weights behind (ours).

    Attach it last: it saves what the epoch's other handlers (validation, learning rate) left. In ``output_dir``:

    - ``last.pt``: after every ``interval`` epochs, all that the rest of the run depends on; found, it is resumed.
    - ``model_best.pt``: the network to use at its best validation metric so far, where there is a validator.
    - ``model.pt``: at the end, the network to use: the best on validation if there was one, else the last.
    - ``model.json``: which epoch ``model.pt`` is from and how it was chosen.

    Files are written under a temporary name and renamed: a run killed at any moment leaves complete files only.
    Weights are flat state dicts of the unwrapped network.

    Args:
        output_dir: the run's folder.
        network: network being trained, possibly inside DistributedDataParallel.
        state: further objects with ``state_dict`` and ``load_state_dict`` by name (optimizer, scheduler, method ...).
        validator: evaluator whose key metric chooses the best epoch, larger is better; None: the last epoch is used.
        patience: stop when the best epoch is this many epochs ago; None: train to the end.
        interval: epochs between two checkpoints.
        network_to_use: network whose weights are for use, such as a moving average of ``network`` (which is then also
            in ``state``); default: ``network``.

    Raises:
        ValueError: when ``patience`` is given without a ``validator``.
    """

    def __init__(
        self,
        output_dir: str,
        network: torch.nn.Module,
        state: Mapping[str, Any],
        validator: Engine | None = None,
        patience: int | None = None,
        interval: int = 1,
        network_to_use: torch.nn.Module | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.network = getattr(network, "module", network)
        self.network_to_use = self.network if network_to_use is None else network_to_use
        self.state = {name: item for name, item in state.items() if item is not None}
        self.validator = validator
        if patience is not None and validator is None:
            raise ValueError(
                f"patience={patience} needs a validator: without validation cases no epoch is the best one."
            )
        self.patience = patience
        self.interval = interval
        self.best: dict[str, Any] = {"epoch": None, "metric": None}
        self._validated = False

    def attach(self, engine: Engine) -> None:
        """Register on a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._note_validation)

    def resume(self, engine: Engine) -> None:
        """Continue from ``last.pt`` if there is one.

        Raises:
            RuntimeError: when it does not fit the configured networks.
        """
        path = self.output_dir / STATE_FILE
        if not path.exists():
            return
        saved = torch.load(path, map_location=engine.state.device, weights_only=True)
        self.network.load_state_dict(saved["network"])
        for name, item in self.state.items():
            item.load_state_dict(saved["state"][name])
        if engine.scaler is not None:
            engine.scaler.load_state_dict(saved["scaler"])
        engine.state.epoch, engine.state.iteration = saved["epoch"], saved["iteration"]
        self.best = saved["best"]
        if self.validator is not None and self.best["epoch"] is not None:
            self.validator.state.best_metric = self.best["metric"]
            self.validator.state.best_metric_epoch = self.best["epoch"]
        logger.info("Resumed after epoch %d from %s", engine.state.epoch, path)
        self._stop_early(engine)

    def save(self, engine: Engine) -> None:
        """Keep the best network and, every ``interval`` epochs and at the last one, the state of the run."""
        epoch = engine.state.epoch
        if self._validated:
            self._validated = False
            self._keep_best(engine)
        if engine.state.rank == 0 and (epoch % self.interval == 0 or epoch == engine.state.max_epochs):
            self._save_all(engine)
        self._stop_early(engine)

    def _save_all(self, engine: Engine) -> None:
        state = {
            "network": self.network.state_dict(),
            "state": {name: item.state_dict() for name, item in self.state.items()},
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": self.best,
        }
        _save(state, self.output_dir / STATE_FILE)

    def finish(self, engine: Engine) -> None:
        """Load the network to use on every rank, and write it on the first."""
        chosen_best = self.best["epoch"] is not None
        if chosen_best:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()  # the first rank may still be writing the file
            saved = torch.load(self.output_dir / "model_best.pt", map_location=engine.state.device, weights_only=True)
            self.network_to_use.load_state_dict(saved)
        if engine.state.rank != 0:
            return
        _save(self.network_to_use.state_dict(), self.output_dir / "model.pt")
        record = {
            "chosen": f"best {self.validator.state.key_metric_name} on validation" if chosen_best else "last epoch",
            "epoch": self.best["epoch"] if chosen_best else engine.state.epoch,
            "validation_metric": self.best["metric"],
            "epochs": engine.state.epoch,
            "iterations": engine.state.iteration,
            "seed": engine.state.seed,
        }
        with replace_file(self.output_dir / "model.json") as path:
            path.write_text(json.dumps(record, indent=2) + "\n")
        logger.info("Wrote %s (%s, epoch %d)", self.output_dir / "model.pt", record["chosen"], record["epoch"])

    def _stop_early(self, engine: Engine) -> None:
        if self.patience is None or self.best["epoch"] is None:
            return
        if engine.state.epoch - self.best["epoch"] >= self.patience:
            logger.info("No better validation since epoch %d: stopping early", self.best["epoch"])
            engine.terminate()

    def _note_validation(self, validator: Engine) -> None:
        self._validated = True

    def _keep_best(self, engine: Engine) -> None:
        metric = float(self.validator.state.metrics[self.validator.state.key_metric_name])
        if self.best["epoch"] is None or metric > self.best["metric"]:
            self.best = {"epoch": engine.state.epoch, "metric": metric}
            if engine.state.rank == 0:
                _save(self.network_to_use.state_dict(), self.output_dir / "model_best.pt")


def _save(content: Any, target: Path) -> None:
    with replace_file(target) as path:
        torch.save(content, path)
