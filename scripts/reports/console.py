# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a training run: a live bar in a terminal, one line per epoch in a log, a file to plot from."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TextIO

import torch
from ignite.engine import Engine, Events
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..engines import remember
from ..ranks import is_main_process
from ..runs.run import Run
from .epoch_means import EpochMeans, step_output
from .results import output_console

__all__ = ["TrainingConsole"]

STATISTICS = ("kept_fraction", "pseudo_class_share", "label_class_share")


class TrainingConsole:
    """Shows and records the progress of a `SemiSupervisedTrainer`, on rank 0.

    Per epoch: its time, the time of a step, what remains, the mean of each named loss, the fraction of unlabelled
    voxels kept as pseudo-labels and how pseudo-labels divide into classes. The same numbers are appended to
    train_log.jsonl in `output_dir`; a resumed run first drops the records of the epochs it repeats. Values are
    summed on the device and fetched once an epoch (in a terminal also every `refresh_steps` steps); with several
    ranks they are those of rank 0. Source: ours.

    Args:
        output_dir: the run's folder.
        labels: {class index: name}, to name classes; numbers are shown without it.
        evaluator: the validation engine, whose metrics are to be shown and recorded as well.
        refresh_steps: steps between two updates of the numbers beside the live bar.
        console: where to print; standard output by default.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        labels: Mapping[int | str, str] | None = None,
        evaluator: Engine | None = None,
        refresh_steps: int = 10,
        console: Console | None = None,
    ) -> None:
        self.log = Run(output_dir).log
        self.labels = {int(c): str(name) for c, name in (labels or {}).items()}
        self.evaluator = evaluator
        self.refresh_steps = refresh_steps
        self.console = console
        self.means = EpochMeans()
        self._progress: Progress | None = None
        self._log_streams: dict[logging.StreamHandler, TextIO] = {}
        self._first_epoch: int | None = None
        self._epoch_open = False
        self._skipped = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer (and with the evaluator, if there is one)."""
        if not is_main_process():
            return
        remember(engine, "console", self)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)
        if self.evaluator is not None:
            # Validation may be attached before or after this handler: the epoch's line comes first in any case.
            self.evaluator.add_event_handler(Events.STARTED, lambda _: self._epoch_completed(engine))
            self.evaluator.add_event_handler(Events.COMPLETED, self._validated)

    def state_dict(self) -> dict[str, object]:
        """What a run resumed within an epoch needs to log that epoch as a whole."""
        seconds = self._last_step - self._epoch_start
        return {"means": self.means.state_dict(), "seconds": seconds, "skipped": self._skipped}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from :meth:`state_dict`."""
        self.means.load_state_dict(state["means"])
        self._skipped = state["skipped"]
        self._epoch_start = time.perf_counter() - state["seconds"]

    def _epoch_started(self, engine: Engine) -> None:
        self.console = self.console or output_console()
        now = time.perf_counter()
        if self._first_epoch is None:
            self._first_epoch, self._run_start = engine.state.epoch, now
            self.log.drop_from(engine.state.epoch)
        self._epoch_start = self._last_step = now
        self._epoch_open = True
        self._learning_rate = engine.optimizer.param_groups[0]["lr"] if hasattr(engine, "optimizer") else None
        self.means.reset()
        self._skipped = 0
        if self.console.is_terminal:
            self._start_bar(engine)

    def _start_bar(self, engine: Engine) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self._progress = Progress(*columns, console=self.console, transient=True)
        # An interrupted run must not leave the terminal without a cursor.
        atexit.register(self._progress.stop)
        description = f"epoch {engine.state.epoch}/{engine.state.max_epochs}"
        self._progress.add_task(description, total=engine.state.epoch_length, now="")
        # Log lines belong above the bar: it replaces sys.stdout, but the log's handlers hold the former one.
        handlers = [h for h in logging.getLogger().handlers if getattr(h, "stream", None) is sys.stdout]
        self._log_streams = dict.fromkeys(handlers, sys.stdout)
        self._progress.start()
        for handler in handlers:
            handler.setStream(sys.stdout)

    def _stop_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            atexit.unregister(self._progress.stop)
            self._progress = None
            for handler, stream in self._log_streams.items():
                handler.setStream(stream)

    def _failed(self, engine: Engine, error: Exception) -> None:
        """Clear the bar away before the error is shown."""
        self._stop_bar()
        raise error

    def _step_completed(self, engine: Engine) -> None:
        if getattr(engine, "skipped_in_a_row", 0):  # its numbers would spoil the means
            self._skipped += 1
            self._last_step = time.perf_counter()
            return
        output = step_output(engine)
        self.means.update({k: v for k, v in output.items() if _is_scalar(v) or (k in STATISTICS and v is not None)})
        self._last_step = time.perf_counter()
        if self._progress is not None:
            step = self._step(engine)
            self._progress.update(self._progress.task_ids[0], completed=step)
            if step % self.refresh_steps == 0:
                seconds = (self._last_step - self._epoch_start) / step
                now = f"{seconds:.2f} s/step, eta {self._remaining(engine)}, {_losses(*_split(self.means.compute()))}"
                self._progress.update(self._progress.task_ids[0], now=now)

    @staticmethod
    def _step(engine: Engine) -> int:
        """Number of steps done in this epoch."""
        return (engine.state.iteration - 1) % engine.state.epoch_length + 1

    def _remaining(self, engine: Engine) -> timedelta:
        """Time left at the pace of this session so far, validation included."""
        done = (engine.state.epoch - self._first_epoch) + self._step(engine) / engine.state.epoch_length
        left = engine.state.max_epochs - self._first_epoch + 1 - done
        return timedelta(seconds=round((time.perf_counter() - self._run_start) / done * left))

    def _epoch_completed(self, engine: Engine) -> None:
        if not self._epoch_open:
            return
        self._epoch_open = False
        self._stop_bar()
        losses, statistics = _split(self.means.compute())
        seconds = self._last_step - self._epoch_start
        record = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "seconds": round(seconds, 3),
            "step_seconds": round(seconds / self._step(engine), 4),
            "losses": losses,
            **statistics,
        }
        if self._skipped:
            record["skipped_steps"] = self._skipped
        if self._learning_rate is not None:
            record["learning_rate"] = self._learning_rate
        self.log.append(record)
        parts = [
            f"epoch {engine.state.epoch}/{engine.state.max_epochs}",
            f"{seconds:.1f} s ({record['step_seconds']:.2f} s/step), eta {self._remaining(engine)}",
            _losses(losses, statistics),
            *self._shares(statistics),
            *([f"{self._skipped} steps skipped"] if self._skipped else []),
        ]
        self._say(" | ".join(parts))

    def _shares(self, statistics: Mapping[str, list[float]]) -> list[str]:
        shares = statistics.get("pseudo_class_share")
        if shares is None:
            return []
        return ["pseudo-labels " + ", ".join(f"{self.labels.get(c, c)} {s:.1%}" for c, s in enumerate(shares))]

    def _validated(self, evaluator: Engine) -> None:
        metrics = {name: float(value) for name, value in evaluator.state.metrics.items() if _is_scalar(value)}
        self.log.append({"epoch": evaluator.state.epoch, "validation": metrics})
        text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        best = getattr(evaluator.state, "best_metric_epoch", -1)
        if best > 0:
            text += f" (best {evaluator.state.best_metric:.4f} at epoch {best})"
        self._say(f"  validation after epoch {evaluator.state.epoch}: {text}")

    def _completed(self, engine: Engine) -> None:
        if self._first_epoch is not None:
            elapsed = timedelta(seconds=round(time.perf_counter() - self._run_start))
            self._say(f"Trained epochs {self._first_epoch} to {engine.state.epoch} in {elapsed}.")

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _is_scalar(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, torch.Tensor) and value.ndim == 0)


def _split(means: Mapping[str, object]) -> tuple[dict[str, float], dict[str, object]]:
    """Losses and statistics."""
    losses = {k: v for k, v in means.items() if k not in STATISTICS}
    return losses, {k: v for k, v in means.items() if k in STATISTICS}


def _losses(losses: Mapping[str, float], statistics: Mapping[str, object]) -> str:
    text = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    return text + (f", kept {statistics['kept_fraction']:.0%}" if "kept_fraction" in statistics else "")
