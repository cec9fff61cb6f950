# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, EventEnum, Events
from ignite.metrics import Metric
from monai.engines import Trainer
from monai.engines.utils import IterationEvents, default_metric_cmp_fn, default_prepare_batch
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import Transform
from monai.utils import CommonKeys as Keys
from monai.utils import StrEnum
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader

from ..data.two_streams import TwoStreams
from ..methods import WEAK_VIEW, Method
from ..networks import MovingAverage

__all__ = ["SemiSupervisedTrainer", "StreamKeys", "named_losses"]


class StreamKeys(StrEnum):
    """Keys of the two streams in ``engine.state.batch``."""

    LABELED = "labeled"
    UNLABELED = "unlabeled"


class SemiSupervisedTrainer(Trainer):
    """Trains a network on labelled and unlabelled batches by a ``Method`` (ours, after MONAI's trainers).

    One step: a batch of each stream, the method's named losses, one backward pass of their sum, one optimizer step.
    ``engine.state.output`` is a dict of detached 0-d tensors: ``loss`` (the sum) and every named loss, with the
    method's ``statistics`` beside them; ``engine.state.batch`` holds the two batches under :class:`StreamKeys`.

    At every epoch start all random generators are set from (seed, epoch, rank), the streams' included, so that a run
    resumed at an epoch's end goes on exactly as the uninterrupted one.

    Args:
        device: where to train.
        max_epochs: epochs to train.
        train_data_loader: labelled stream; its batches have ``image`` [B,channels,*S] and ``label`` [B,1,*S].
        network: the network that the method calls, e.g. ``DualNetwork``, possibly inside DistributedDataParallel.
        optimizer: optimizer of the network's parameters.
        method: computes the losses.
        unlabeled_data_loader: unlabelled stream (``image``, and ``weak`` where its transforms make it), or None: the
            run is supervised then, and says so.
        epoch_length: steps per epoch; the loaders cycle. Default: the length of the longer loader.
        seed: seed of the run.
        average: moving average of the network, updated after every step, or None.
        max_grad_norm: clip the gradient's global L2 norm to this value; None: no clipping.
        inferer: how a batch passes the network, default ``SimpleInferer``.
        non_blocking, prepare_batch, iteration_update, postprocessing, key_train_metric, additional_metrics,
            metric_cmp_fn, train_handlers, amp, event_names, event_to_attr, decollate, optim_set_to_none, to_kwargs,
            amp_kwargs: as in ``monai.engines.SupervisedTrainer``, except that ``decollate`` is off.

    Raises:
        ValueError: when ``train_data_loader`` is not a DataLoader or a loader has no batches.
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
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=TwoStreams(train_data_loader, unlabeled_data_loader, epoch_length, seed, rank),
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
            event_names=event_names,
            event_to_attr=event_to_attr,
            decollate=decollate,
            to_kwargs=to_kwargs,
            amp_kwargs=amp_kwargs,
        )
        self.network = network
        self.optimizer = optimizer
        self.method = method.to(self.state.device)
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.average = None if average is None else average.to(self.state.device)
        self.max_grad_norm = max_grad_norm
        self.optim_set_to_none = optim_set_to_none
        self.state.seed = seed
        self.add_event_handler(Events.STARTED, _announce_streams)
        self.add_event_handler(Events.EPOCH_STARTED, _seed_epoch)
        self.add_event_handler(Events.EPOCH_COMPLETED, _stop_at_non_finite_loss)

    @property
    def progress(self) -> float:
        """Fraction of the training's steps done before the current one, in [0, 1)."""
        return (self.state.iteration - 1) / (self.state.max_epochs * self.state.epoch_length)

    def _iteration(self, engine: SemiSupervisedTrainer, batchdata: dict[str, Any]) -> dict[str, torch.Tensor]:
        """One step on ``batchdata`` of :class:`~..data.TwoStreams`.

        Raises:
            ValueError: when ``batchdata`` is None.
        """
        if batchdata is None:
            raise ValueError("Must provide batch data for current iteration.")
        labeled = engine._prepare(batchdata[StreamKeys.LABELED])
        unlabeled = engine._prepare(batchdata[StreamKeys.UNLABELED])

        engine.network.train()
        engine.method.train()
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        with torch.autocast(engine.state.device.type, enabled=engine.amp, **engine.amp_kwargs):
            network = partial(engine.inferer, network=engine.network)
            losses = engine.method(network, labeled, unlabeled, engine.progress)
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
        engine.state.output = {Keys.LOSS: total.detach(), **{name: loss.detach() for name, loss in losses.items()}}
        engine.state.output.update(engine.method.statistics)
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        engine._step(total)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _prepare(self, batch: Any) -> dict[str, torch.Tensor] | None:
        """Move a batch of one stream to the device: ``image`` and, if it has them, ``label`` and ``weak``."""
        if batch is None:
            return None
        image, label = self.prepare_batch(batch, self.state.device, self.non_blocking, **self.to_kwargs)
        prepared = {Keys.IMAGE: image} if label is None else {Keys.IMAGE: image, Keys.LABEL: label}
        if isinstance(batch, Mapping) and WEAK_VIEW in batch:  # a custom prepare_batch may take other batches
            prepared[WEAK_VIEW] = batch[WEAK_VIEW].to(self.state.device, non_blocking=self.non_blocking)
        # losses work on plain tensors: tracking the geometry of MetaTensors through every operation costs time
        return {k: v.as_tensor() if hasattr(v, "as_tensor") else v for k, v in prepared.items()}

    def _step(self, total: torch.Tensor) -> None:
        scaler = self.scaler if self.scaler is not None else torch.amp.GradScaler(enabled=False)
        scaler.scale(total).backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if self.max_grad_norm is not None:
            scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        scaler.step(self.optimizer)
        scaler.update()
        if self.average is not None:
            self.average.update_parameters(getattr(self.network, "module", self.network))


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
    engine.data_loader.set_epoch(engine.state.epoch)
    state = np.random.SeedSequence([engine.state.seed, engine.state.epoch, engine.state.rank, 1]).generate_state(1)
    seed = int(state[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _stop_at_non_finite_loss(engine: SemiSupervisedTrainer) -> None:
    losses = named_losses(engine.state.output)
    if not np.isfinite(losses[Keys.LOSS]):
        remedy = "lower learning_rate or set max_grad_norm"
        if engine.amp and engine.state.device.type == "cpu":
            # oneDNN's bfloat16 gradient of a 3-wide convolution is wrong for some inputs two voxels wide
            remedy = "set amp to False (bfloat16 on a CPU fails for some patch sizes)"
        raise RuntimeError(
            f"The loss of epoch {engine.state.epoch} is not finite: {losses}. The last checkpoint is from before it; "
            f"{remedy} and start again."
        )
