# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, EventEnum, Events
from ignite.metrics import Metric
from monai.engines import Trainer
from monai.engines.utils import IterationEvents, default_metric_cmp_fn, default_prepare_batch
from monai.engines.workflow import Workflow
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import Transform
from monai.utils import CommonKeys as Keys
from monai.utils import StrEnum
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader

from ..annotation import CLASSES
from ..data.augmentation.on_device import DRAWN
from ..data.streams import TwoStreams
from ..errors import DataError
from ..methods import WEAK_VIEW, Method
from ..networks import MovingAverage
from ..ranks import maximum_over_ranks, rank
from .signals import Signals
from .traces import BufferSnapshot

__all__ = ["SemiSupervisedTrainer", "StreamKeys", "TrainingEvents", "named_losses"]


class StreamKeys(StrEnum):
    """Keys of the two streams in ``engine.state.batch``."""

    LABELED = "labeled"
    UNLABELED = "unlabeled"


class TrainingEvents(EventEnum):
    """Events of :class:`SemiSupervisedTrainer` beside ignite's and MONAI's."""

    GIVING_UP = "giving_up"
    """The loss has not been finite for too many steps in a row; the error follows."""


class SemiSupervisedTrainer(Trainer):
    """Trains a network on labelled and unlabelled batches by a ``Method`` (ours, after MONAI's trainers).

    One step: a batch of each stream, the method's named losses, one backward pass of their sum, one optimizer step.
    ``engine.state.output`` is a dict of detached 0-d tensors: ``loss`` (the sum) and every named loss, with the
    method's ``statistics`` beside them; ``engine.state.batch`` holds the two batches under :class:`StreamKeys`.

    At every epoch start all random generators are set from (seed, epoch, rank), the streams' included, so that a run
    resumed at an epoch's end goes on exactly as the uninterrupted one. Resumed within an epoch (``state.iteration``
    says so), the batches of the steps done are drawn and dropped.

    A step whose loss or gradient is not finite is skipped: weights, running statistics and moving average stay as they
    were. ``skipped_in_a_row`` counts such steps until the next sound one; after ``max_skipped`` of them, or at the end
    of the run, training ends with an error.

    Args:
        device: where to train.
        max_epochs: epochs to train.
        train_data_loader: labelled stream; its batches have ``image`` [B,channels,*S] and ``label`` [B,1,*S], and
            where labels are not complete ``classes`` [B,C], see :class:`~..methods.Step`.
        network: the network that the method calls, e.g. ``DualNetwork``, possibly inside DistributedDataParallel.
        optimizer: optimizer of the network's parameters.
        method: computes the losses.
        unlabeled_data_loader: unlabelled stream (``image``, and ``weak`` where its transforms make it), or None: the
            run is supervised then, and says so.
        epoch_length: steps per epoch; the loaders cycle. Default: the length of the longer loader.
        seed: seed of the run.
        average: moving average of the network, updated after every step, or None.
        max_grad_norm: clip the gradient's global L2 norm to this value; None: no clipping.
        max_skipped: steps in a row that may be skipped because the loss or the gradient is not finite.
        micro_batches: parts that the batches of a step are cut into, which pass the network one after the other; their
            gradients are averaged. Less memory; losses over a whole batch (batch Dice, batch normalisation) see a part.
        batch_transforms: for each of :class:`StreamKeys` what completes a batch on the device whose loader has only
            drawn the numbers, e.g. :class:`~..data.VaryIntensity`.
        inferer: how a batch passes the network, default ``SimpleInferer``.
        non_blocking, prepare_batch, iteration_update, postprocessing, key_train_metric, additional_metrics,
            metric_cmp_fn, train_handlers, amp, event_names, event_to_attr, decollate, optim_set_to_none, to_kwargs,
            amp_kwargs: as in ``monai.engines.SupervisedTrainer``, except that ``decollate`` is off.

    Raises:
        ValueError: when ``train_data_loader`` is not a DataLoader or a loader has no batches.
        DataError: when a batch cannot be cut into ``micro_batches`` equal parts; in training, when the loader has left
            a batch to ``batch_transforms`` that are not there.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: DataLoader,
        network: torch.nn.Module,
        optimizer: Optimizer,
        method: Method,
        unlabeled_data_loader: DataLoader | None = None,
        epoch_length: int | None = None,
        seed: int = 0,
        average: MovingAverage | None = None,
        max_grad_norm: float | None = None,
        max_skipped: int = 10,
        micro_batches: int = 1,
        batch_transforms: Mapping[str, Callable[[dict, torch.Tensor], dict]] | None = None,
        inferer: Inferer | None = None,
        non_blocking: bool = False,
        prepare_batch: Callable = default_prepare_batch,
        iteration_update: Callable[[Engine, Any], Any] | None = None,
        postprocessing: Transform | None = None,
        key_train_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        metric_cmp_fn: Callable = default_metric_cmp_fn,
        train_handlers: Sequence | None = None,
        amp: bool = False,
        event_names: list[str | EventEnum | type[EventEnum]] | None = None,
        event_to_attr: dict | None = None,
        decollate: bool = False,
        optim_set_to_none: bool = True,
        to_kwargs: dict | None = None,
        amp_kwargs: dict | None = None,
    ) -> None:
        if not isinstance(train_data_loader, DataLoader):
            raise ValueError(
                f"train_data_loader must be a PyTorch DataLoader but is {type(train_data_loader).__name__}."
            )
        for loader in (train_data_loader, unlabeled_data_loader):
            if loader is not None and (micro_batches < 1 or (loader.batch_size or 1) % micro_batches):
                raise DataError(
                    f"micro_batches {micro_batches}: give a number that divides batch_size and unlabeled_batch_size, "
                    f"here {loader.batch_size}."
                )
        # Handlers, which the next call attaches, set these.
        self.signals: Signals | None = None
        self.evidence: str | None = None
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=TwoStreams(train_data_loader, unlabeled_data_loader, epoch_length, seed, rank()),
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            iteration_update=iteration_update,
            postprocessing=postprocessing,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            metric_cmp_fn=metric_cmp_fn,
            handlers=train_handlers,
            amp=amp,
            event_names=[*(event_names or []), TrainingEvents],
            event_to_attr=event_to_attr,
            decollate=decollate,
            to_kwargs=to_kwargs,
            amp_kwargs=amp_kwargs,
        )
        self.network = network
        self.optimizer = optimizer
        self.method = method.to(self.state.device)
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.average = average
        if average is not None:  # its counter stays on the host: every step looks at it
            average.module.to(self.state.device)
        self.max_grad_norm = max_grad_norm
        self.max_skipped = max_skipped
        self.micro_batches = micro_batches
        self.batch_transforms = dict(batch_transforms or {})
        self.skipped_in_a_row = 0
        self.optim_set_to_none = optim_set_to_none
        self.state.seed = seed
        self.add_event_handler(Events.STARTED, _announce_streams)
        self.add_event_handler(Events.EPOCH_STARTED, _seed_epoch)

    def run(self) -> None:
        """Train; where a handler has set ``signals``, they are listened to meanwhile."""
        # MONAI's Trainer.run scales in any precision, and for CUDA alone; bfloat16 has the range of float32
        device, dtype = self.state.device.type, self.amp_kwargs.get("dtype")
        halves = self.amp and (dtype or torch.get_autocast_dtype(device)) is torch.float16
        self.scaler = torch.amp.GradScaler(device) if halves else None
        with nullcontext() if self.signals is None else self.signals.listening():
            Workflow.run(self)

    @property
    def progress(self) -> float:
        """Fraction of the training's steps done before the current one, in [0, 1)."""
        return (self.state.iteration - 1) / (self.state.max_epochs * self.state.epoch_length)

    def _iteration(self, engine: SemiSupervisedTrainer, batchdata: dict[str, Any]) -> dict[str, torch.Tensor]:
        """One step on ``batchdata`` of :class:`~..data.TwoStreams`.

        Raises:
            ValueError: when ``batchdata`` is None.
            DataError: when too many steps in a row had a loss or a gradient that is not finite.
        """
        if batchdata is None:
            raise ValueError("Must provide batch data for current iteration.")
        before = BufferSnapshot(engine.network, engine.method)
        labeled, unlabeled = (engine._prepare(batchdata[stream], stream) for stream in StreamKeys)

        engine.network.train()
        engine.method.train()
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        parts = _cut(labeled, unlabeled, engine.micro_batches)
        outputs = []
        for number, part in enumerate(parts, start=1):
            # several processes exchange their gradients once a step
            waits = number < len(parts) and hasattr(engine.network, "no_sync")
            with engine.network.no_sync() if waits else nullcontext():
                outputs.append(engine._learn(*part, len(parts)))
        engine.state.output = _mean(outputs)
        if engine._step(engine.state.output[Keys.LOSS]):
            engine.skipped_in_a_row = 0
        else:
            before.restore()
            engine._skip()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _prepare(self, batch: Any, stream: StreamKeys) -> dict[str, torch.Tensor] | None:
        """Move a batch to the device: ``image`` and, if it has them, ``label``, ``classes``, ``weak``; complete it."""
        if batch is None:
            return None
        image, label = self.prepare_batch(batch, self.state.device, self.non_blocking, **self.to_kwargs)
        prepared = {Keys.IMAGE: image} if label is None else {Keys.IMAGE: image, Keys.LABEL: label}
        for key in (WEAK_VIEW, CLASSES):
            if isinstance(batch, Mapping) and key in batch:  # a custom prepare_batch may take other batches
                prepared[key] = batch[key].to(self.state.device, non_blocking=self.non_blocking)
        # losses work on plain tensors: tracking the geometry of MetaTensors through every operation costs time
        prepared = {k: v.as_tensor() if hasattr(v, "as_tensor") else v for k, v in prepared.items()}
        if not isinstance(batch, Mapping) or DRAWN not in batch:
            return prepared
        if (complete := self.batch_transforms.get(stream)) is None:
            raise DataError(
                f"The loader of the {stream} scans leaves their intensities to the device, but the trainer has no "
                "batch_transforms for them: set intensity_on_device to False."
            )
        return complete(prepared, batch[DRAWN])

    def _learn(self, labeled: Any, unlabeled: Any, parts: int) -> dict[str, torch.Tensor]:
        """Forward and backward pass of one of the equal parts of a step; the losses and the method's statistics."""
        with torch.autocast(self.state.device.type, enabled=self.amp, **self.amp_kwargs):
            network = partial(self.inferer, network=self.network)
            losses = self.method(network, labeled, unlabeled, self.progress)
            self.fire_event(IterationEvents.FORWARD_COMPLETED)
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.state.output = {Keys.LOSS: total.detach(), **{name: loss.detach() for name, loss in losses.items()}}
        self.state.output.update(self.method.statistics)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self._loss_scaler.scale(total / parts).backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        return self.state.output

    @property
    def _loss_scaler(self) -> torch.amp.GradScaler:
        return self.scaler if self.scaler is not None else torch.amp.GradScaler(enabled=False)

    def _step(self, total: torch.Tensor) -> bool:
        """Optimizer step; False when it is not taken since a number is not finite."""
        scaler = self._loss_scaler
        scaler.unscale_(self.optimizer)
        if self.max_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        sound = _is_finite(norm + total)
        if sound:
            scaler.step(self.optimizer)
        scaler.update()
        if sound and self.average is not None:
            self.average.update_parameters(getattr(self.network, "module", self.network))
        return sound

    def _skip(self) -> None:
        """Note a step that was not taken; give up when it was one too many."""
        self.skipped_in_a_row += 1
        step, epoch = self.state.iteration, self.state.epoch
        losses = {name: round(value, 4) for name, value in named_losses(self.state.output).items()}
        is_last = step == self.state.max_epochs * self.state.epoch_length
        if self.skipped_in_a_row < self.max_skipped and not is_last:
            self.logger.warning("Step %d skipped: its loss or gradient is not finite (%s).", step, losses)
            return
        self.fire_event(TrainingEvents.GIVING_UP)
        remedy = "lower learning_rate or set max_grad_norm"
        if spoilt := [name for name, batch in self.state.batch.items() if batch is not None and _is_spoilt(batch)]:
            named = "the warnings name scan and transform"
            remedy = f"the images of the {' and the '.join(spoilt)} batch are not finite ({named})"
        elif self.amp and self.state.device.type == "cpu":
            # oneDNN's bfloat16 gradient of a 3-wide convolution is wrong for some inputs two voxels wide
            remedy = "set precision to float32 (bfloat16 on a CPU fails for some patch sizes)"
        evidence = "" if self.evidence is None else f" Batch and networks are in {self.evidence}."
        raise DataError(
            f"Loss or gradient not finite in {self.skipped_in_a_row} steps in a row, the last one step {step} in epoch "
            f"{epoch}: {losses}.{evidence} The last checkpoint is from before; {remedy}, and start again."
        )


def _is_finite(number: torch.Tensor) -> bool:
    """A step's one wait for the device. All processes have the same gradient, but each has a loss of its own."""
    return not maximum_over_ranks(int(not bool(torch.isfinite(number))))


def named_losses(output: dict[str, torch.Tensor]) -> dict[str, float]:
    """The scalar entries of a trainer's output (total, losses, 0-d statistics) as floats, for MONAI's handlers."""
    scalars = {name: value for name, value in output.items() if value.ndim == 0}
    # one copy from the device for all of them
    return dict(zip(scalars, torch.stack([value.float() for value in scalars.values()]).tolist(), strict=True))


def _announce_streams(engine: SemiSupervisedTrainer) -> None:
    streams = engine.data_loader.loaders
    if streams[StreamKeys.UNLABELED] is None:
        engine.logger.warning("No unlabelled scans: this run is supervised by the labelled scans alone.")


def _seed_epoch(engine: SemiSupervisedTrainer) -> None:
    engine.data_loader.set_epoch(engine.state.epoch, engine.state.iteration % engine.state.epoch_length)
    state = np.random.SeedSequence([engine.state.seed, engine.state.epoch, engine.state.rank, 1]).generate_state(1)
    seed = int(state[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _cut(labeled: dict[str, Any], unlabeled: dict[str, Any] | None, count: int) -> list[tuple[Any, Any]]:
    """Equal parts of a step's batches: ``count``, or fewer where there are fewer images."""
    count = math.gcd(count, *(len(batch[Keys.IMAGE]) for batch in (labeled, unlabeled) if batch is not None))
    cut = [
        [None] * count
        if batch is None
        else [
            dict(zip(batch, part, strict=True)) for part in zip(*(v.chunk(count) for v in batch.values()), strict=True)
        ]
        for batch in (labeled, unlabeled)
    ]
    return list(zip(*cut, strict=True))


def _mean(outputs: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    if len(outputs) == 1:
        return outputs[0]
    return {name: torch.stack([output[name].float() for output in outputs]).mean(0) for name in outputs[0]}


def _is_spoilt(batch: Any) -> bool:
    return isinstance(batch, Mapping) and not bool(torch.as_tensor(batch[Keys.IMAGE]).isfinite().all())
