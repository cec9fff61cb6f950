# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..engines import SemiSupervisedTrainer, Signals, TrainingEvents, TrainingStopped, memories
from ..engines.generators import read_generators, set_generators
from ..errors import DataError
from ..ranks import gather_on_main, is_main_process, maximum_over_ranks, rank, world_size
from ..tensor_files import DamagedFileError, find_non_finite, load_tensors, save_tensors
from .run import Run

__all__ = ["RunState"]

logger = logging.getLogger(__name__)


class RunState:
    """Makes a run resumable and leaves its weights behind (ours).

    Attach it last: it saves what the epoch's other handlers (validation, learning rate) left. In ``output_dir``:

    - ``last.pt``: all that the rest of the run depends on; found, it is resumed. Written after every ``interval``
      epochs, every ``minutes`` within an epoch, and when a signal asks for it (:class:`~..engines.Signals`).
    - ``previous.pt``: the ``last.pt`` before; it takes over, with a warning, when ``last.pt`` is damaged.
    - ``model_best.pt``: the network to use at its best validation metric so far, where there is a validator.
    - ``model_supervised.pt``: the network to use at the end of the supervised part, where there is one.
    - ``model.pt``: at the end, the network to use: the best on validation if there was one, else the last.
    - ``model.json``: which epoch ``model.pt`` is from and how it was chosen.

    Files are written under a temporary name and renamed: a run killed at any moment leaves complete files only. Nothing
    that holds nan or infinity is saved. Weights are flat state dicts of the unwrapped network.

    Args:
        output_dir: the run's folder.
        network: network being trained, possibly inside DistributedDataParallel.
        state: further objects with ``state_dict`` and ``load_state_dict`` by name (optimizer, scheduler, method ...).
        validator: evaluator whose key metric chooses the best epoch, larger is better; None: the last epoch is used.
        patience: stop when the best epoch is this many epochs ago; None: train to the end.
        interval: epochs between two checkpoints.
        network_to_use: network whose weights are for use, such as a moving average of ``network`` (which is then also
            in ``state``); default: ``network``.
        warm_up_epochs: epochs of the supervised part; 0: there is none.
        minutes: at most so many minutes lie between two checkpoints (and a step); None: only epochs count.

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
        warm_up_epochs: int = 0,
        minutes: float | None = 10.0,
    ) -> None:
        self.run = Run(output_dir)
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
        self.warm_up_epochs = warm_up_epochs
        self.minutes = math.inf if minutes is None else minutes
        self.best: dict[str, Any] = {"epoch": None, "metric": None}
        self.signals = Signals()
        self._validated = False
        self._before_validation: dict[str, Any] | None = None
        self._keep_previous = True
        self._saved_at = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Register on a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._between_steps)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._note_validation)
            self.validator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self._stop_in_validation(engine))
        if isinstance(engine, SemiSupervisedTrainer):
            engine.signals = self.signals
            engine.evidence = str(self.run.evidence)
            engine.add_event_handler(TrainingEvents.GIVING_UP, self._keep_evidence)

    def resume(self, engine: Engine) -> None:
        """Continue from ``last.pt`` if there is one, or from ``previous.pt``.

        Raises:
            DataError: when none of them is as it was written.
            RuntimeError: when it does not fit the configured networks.
        """
        self._saved_at = time.monotonic()
        if not self.run.can_resume:
            if self.run.log.read() and is_main_process():
                logger.warning("%s has a log but no checkpoint: training starts from its first step", self.run.folder)
            return
        saved = self._read(engine.state.device)
        self.network.load_state_dict(saved["network"])
        for name, item in self.state.items():
            item.load_state_dict(saved["state"][name])
        if engine.scaler is not None and saved["scaler"] is not None:  # without one: the run started on a CPU
            engine.scaler.load_state_dict(saved["scaler"])
        self.best = saved["best"]
        if self.validator is not None and self.best["epoch"] is not None:
            self.validator.state.best_metric = self.best["metric"]
            self.validator.state.best_metric_epoch = self.best["epoch"]
        self._enter(engine, saved)
        self._stop_early(engine)

    def save(self, engine: Engine) -> None:
        """Keep the best network and, every ``interval`` epochs and at the last one, the state of the run."""
        self._before_validation = None
        epoch = engine.state.epoch
        if self._validated:
            self._validated = False
            self._keep_best(engine)
        if engine.state.rank == 0 and epoch == self.warm_up_epochs:
            _save_finite(self.network_to_use.state_dict(), self.run.supervised_model)
            logger.info("The supervised part has ended: from now on unlabelled scans count")
        request = maximum_over_ranks(self.signals.request)
        if request or epoch % self.interval == 0 or epoch == engine.state.max_epochs:
            self._write(engine, self._content(engine, epoch_done=True))
        if request > Signals.SAVE:
            self._stop(engine, request)
        self._stop_early(engine)

    def finish(self, engine: Engine) -> None:
        """Load the network to use on every rank, and write it on the first."""
        chosen, epoch = "last epoch", engine.state.epoch
        if self.best["epoch"] is not None:
            chosen, epoch = f"best {self.validator.state.key_metric_name} on validation", self.best["epoch"]
            if world_size() > 1:
                torch.distributed.barrier()  # the first rank may still be writing the file
            self.network_to_use.load_state_dict(self._read_best(engine.state.device))
        elif getattr(engine.state, "drifted", False):  # said by an alarm that was asked to stop the run
            chosen, epoch = "end of the supervised part, as the training drifted after it", self.warm_up_epochs
            self.network_to_use.load_state_dict(load_tensors(self.run.supervised_model, engine.state.device))
        if engine.state.rank != 0:
            return
        _save_finite(self.network_to_use.state_dict(), self.run.model)
        choice = {
            "chosen": chosen,
            "epoch": epoch,
            "part": "supervised" if epoch <= self.warm_up_epochs else "with the unlabelled scans",
            "validation_metric": self.best["metric"],
            "epochs": engine.state.epoch,
            "iterations": engine.state.iteration,
            "seed": engine.state.seed,
        }
        self.run.note_choice(choice)
        logger.info("Wrote %s (%s, epoch %d)", self.run.model, chosen, epoch)

    def _read(self, device: torch.device) -> dict[str, Any]:
        """The newest state that is as it was written, with a warning when that is not the last one."""
        problems: list[str] = []
        for path in (self.run.state, self.run.previous_state):
            try:
                saved = load_tensors(path, device)
                if not isinstance(saved, dict) or not {"network", "state", "epoch", "iteration", "best"} <= set(saved):
                    raise DamagedFileError(f"{path} holds no state of a training")
                if (name := find_non_finite(saved)) is not None:
                    raise DamagedFileError(f"{path} holds numbers that are not finite ({name})")
                self._check_models(saved)
            except DamagedFileError as error:
                problems.append(str(error))
                continue
            if problems:
                self._keep_previous = False  # the damaged file must not take the place of the sound one
                if is_main_process():
                    logger.warning("%s: the training goes on from the checkpoint before, %s", problems[0], path)
            return saved
        raise DataError(
            f"{'; '.join(dict.fromkeys(problems))}. Put back a copy, or move the folder away to train from the first "
            "step."
        )

    def _check_models(self, saved: Mapping[str, Any]) -> None:
        """Weights from before a state that the end of the run needs."""
        if saved["best"]["epoch"] is not None:
            self._read_best("cpu")
        ended = saved["epoch"] if saved.get("epoch_done", True) else saved["epoch"] - 1
        if 0 < self.warm_up_epochs <= ended:
            load_tensors(self.run.supervised_model)

    def _read_best(self, device: torch.device | str) -> dict[str, torch.Tensor]:
        return load_tensors(self.run.best_model, device)

    def _enter(self, engine: Engine, saved: Mapping[str, Any]) -> None:
        """Take the place in the training that a state was saved at."""
        epoch, iteration, ranks = saved["epoch"], saved["iteration"], saved.get("ranks")
        own = None
        if ranks is not None and len(ranks) == world_size():
            own = ranks[rank()]
        elif ranks is not None:
            own = {"memory": ranks[0]["memory"], "generators": None, "buffers": {}}
            warn = logger.warning if is_main_process() else logger.debug
            warn(
                "%s was written by %d processes and is resumed by %d: the training goes on, with other random numbers "
                "than an uninterrupted one",
                self.run.folder,
                len(ranks),
                world_size(),
            )
        engine.state.epoch, engine.state.iteration = epoch, iteration
        if saved.get("epoch_done", True):
            logger.info("Resumed after epoch %d from %s", epoch, self.run.folder)
            self._recall(engine, own)
            return
        length = engine.state.epoch_length
        done = iteration - (epoch - 1) * length
        logger.info("Resumed in epoch %d after step %d of %d from %s", epoch, done, length, self.run.folder)
        if done < length:  # the engine goes on with the steps that are left
            engine.state.epoch = epoch - 1
            engine.add_event_handler(Events.ITERATION_STARTED(once=iteration + 1), self._recall, own)
        else:  # all steps are done; the engine would repeat them
            engine.fire_event(Events.EPOCH_STARTED)
            self._recall(engine, own)
            engine.fire_event(Events.EPOCH_COMPLETED)

    def _recall(self, engine: Engine, own: Mapping[str, Any] | None) -> None:
        """Restore what this process alone knew."""
        if own is None:
            return
        for name, item in memories(engine).items():
            if name in own["memory"]:
                item.load_state_dict(own["memory"][name])
        if own["generators"] is not None:
            set_generators(own["generators"], engine.state.device)
        for name, part in self._parts().items():
            for key, buffer in part.named_buffers():
                if key in own["buffers"].get(name, {}):
                    with torch.no_grad():
                        buffer.copy_(own["buffers"][name][key])

    def _parts(self) -> dict[str, torch.nn.Module]:
        """Modules whose buffers differ between processes within an epoch."""
        return {"network": self.network} | {
            name: item for name, item in self.state.items() if isinstance(item, torch.nn.Module)
        }

    def _content(self, engine: Engine, epoch_done: bool) -> dict[str, Any]:
        """The state of the run, by reference to the tensors in use; every process has to call it."""
        step = 0 if epoch_done else self._steps_done(engine)
        within = not epoch_done and step < engine.state.epoch_length
        own = {
            "memory": {name: item.state_dict() for name, item in memories(engine).items()},
            "generators": read_generators(engine.state.device) if within else None,
            "buffers": {name: dict(part.named_buffers()) for name, part in self._parts().items()}
            if within and world_size() > 1
            else {},
        }
        return {
            "network": self.network.state_dict(),
            "state": {name: item.state_dict() for name, item in self.state.items()},
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": self.best,
            "epoch_done": epoch_done,
            "ranks": gather_on_main(own),
        }

    def _between_steps(self, engine: Engine) -> None:
        """Save when it is time or somebody asks for it; the last step of an epoch is saved with the epoch."""
        if self._steps_done(engine) == engine.state.epoch_length:
            if self.validator is not None:  # which may take long, and changes no weight
                self._before_validation = self._content(engine, epoch_done=False)
            return
        is_time = time.monotonic() - self._saved_at >= 60 * self.minutes
        request = maximum_over_ranks(max(self.signals.request, Signals.SAVE if is_time else 0))
        if request:
            self._write(engine, self._content(engine, epoch_done=False))
        if request > Signals.SAVE:
            self._stop(engine, request)

    def _stop_in_validation(self, engine: Engine) -> None:
        # The other ranks are somewhere in scans of their own; they end when the first one has.
        if self.signals.stop and is_main_process() and self._before_validation is not None:
            self._write(engine, self._before_validation)
            self._stop(engine, self.signals.stop, alone=True)

    def _write(self, engine: Engine, content: dict[str, Any]) -> None:
        """Save a state, unless the last step was skipped: what spoils the steps may have to be undone from before."""
        self.signals.save = False
        self._saved_at = time.monotonic()
        if engine.state.rank != 0 or getattr(engine, "skipped_in_a_row", 0):
            return
        _save_finite(content, self.run.state, self.run.previous_state if self._keep_previous else None)
        self._keep_previous = True
        logger.debug("Wrote %s", self.run.state)

    def _stop(self, engine: Engine, code: int, alone: bool = False) -> None:
        if not alone:
            maximum_over_ranks(0)  # nobody ends before the first process has written all
        if is_main_process():
            logger.warning(
                "%s: stopped in epoch %d after step %d of %d. The same command goes on from %s.",
                Signals.name(code),
                engine.state.epoch,
                self._steps_done(engine),
                engine.state.epoch_length,
                self.run.state,
            )
        raise TrainingStopped(code)

    @staticmethod
    def _steps_done(engine: Engine) -> int:
        return engine.state.iteration - (engine.state.epoch - 1) * engine.state.epoch_length

    def _keep_evidence(self, engine: SemiSupervisedTrainer) -> None:
        """What made the training give up, for somebody to look at."""
        if engine.state.rank != 0:
            return
        batch = {
            str(stream): {str(key): _plain(value) for key, value in items.items() if isinstance(value, torch.Tensor)}
            for stream, items in engine.state.batch.items()
            if isinstance(items, Mapping)
        }
        content = {
            "batch": batch,
            "network": self.network.state_dict(),
            "losses": {str(name): value for name, value in engine.state.output.items()},
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
        }
        save_tensors(content, self.run.evidence)

    def _stop_early(self, engine: Engine) -> None:
        if self.patience is None or self.best["epoch"] is None:
            return
        # no verdict on the second part before it has begun
        if engine.state.epoch - max(self.best["epoch"], self.warm_up_epochs) >= self.patience:
            logger.info("No better validation since epoch %d: stopping early", self.best["epoch"])
            engine.terminate()

    def _note_validation(self, validator: Engine) -> None:
        self._validated = True

    def _keep_best(self, engine: Engine) -> None:
        metric = float(self.validator.state.metrics[self.validator.state.key_metric_name])
        if math.isfinite(metric) and (self.best["epoch"] is None or metric > self.best["metric"]):
            self.best = {"epoch": engine.state.epoch, "metric": metric}
            if engine.state.rank == 0:
                _save_finite(self.network_to_use.state_dict(), self.run.best_model)


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.as_tensor() if hasattr(value, "as_tensor") else value  # of a MetaTensor


def _save_finite(content: Any, path: Any, keep: Any = None) -> None:
    if (name := find_non_finite(content)) is not None:
        raise DataError(
            f"{path}: not written, since {name} is not finite any more. What was saved before is as it was: lower "
            "learning_rate or set max_grad_norm, and start again."
        )
    save_tensors(content, path, keep)
