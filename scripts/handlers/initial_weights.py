# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..data import DataError
from .atomic import replace_file
from .run_state import STATE_FILE

__all__ = ["InitialWeights"]

logger = logging.getLogger(__name__)

START_FILE = "initial_weights.json"


class InitialWeights:
    """Starts a training from the weights of an earlier one that trained the same networks (ours).

    For labelled pre-training, which most semi-supervised methods begin with, and for fine-tuning. MONAI's
    CheckpointLoader leaves a moving average of the network as it was, and loads the part that fits; this one loads all
    or nothing.

    Args:
        path: a flat state dict, such as the ``model.pt`` of a run.
        network: network to train, possibly inside DistributedDataParallel.
        average: a :class:`~scripts.networks.MovingAverage` of it that is to start there, too.
        required: whether weights of other networks are an error; if not, the training starts from random weights.
        output_dir: the run's folder. ``initial_weights.json`` there says which weights were loaded; a run that is
            resumed from its ``last.pt`` needs ``path`` no more, and keeps that record. None: no record.

    Raises:
        DataError: when ``path`` cannot be read or, if ``required``, is of other networks.
    """

    def __init__(
        self,
        path: str,
        network: nn.Module,
        average: nn.Module | None = None,
        required: bool = True,
        output_dir: str | None = None,
    ) -> None:
        self.path = str(path)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.targets = [getattr(network, "module", network)] + ([] if average is None else [average.module])
        self.weights: dict[str, Tensor] | None = None
        if self.output_dir is not None and (self.output_dir / STATE_FILE).exists():
            return
        own = self.targets[0].state_dict()
        self.weights = _read(self.path)
        if difference := _difference(self.weights, own):
            if required:
                raise DataError(
                    f"{self.path}: is of other networks than this run's ({difference}). Train with the labels, "
                    "base_channels, stem_stride and norm that it was trained with, or without --initial_weights."
                )
            logger.warning("%s is of other networks: training starts from random weights", self.path)
            self.weights = None

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, before the handler that resumes an interrupted run."""
        if self.weights is not None:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights and note where they are from."""
        for target in self.targets:
            target.load_state_dict(self.weights)
        if self.output_dir is not None and engine.state.rank == 0:
            with replace_file(self.output_dir / START_FILE) as path:
                path.write_text(json.dumps({"path": self.path}) + "\n")
        logger.info("Training starts from %s", self.path)


def _read(path: str) -> dict[str, Tensor]:
    remedy = "Name the model.pt of a finished run with --initial_weights."
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: holds no weights, or only a part of them. {remedy}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise DataError(f"{path}: is no flat state dict. {remedy}")
    return weights


def _difference(weights: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    """The first difference of names or shapes, in words; None if there is none."""
    for name, value in own.items():
        if name not in weights:
            return f"{name} is missing in it"
        if weights[name].shape != value.shape:
            return f"{name} is {tuple(weights[name].shape)} there, {tuple(value.shape)} here"
    extra = [name for name in weights if name not in own]
    return f"{extra[0]} is not in this run's" if extra else None
