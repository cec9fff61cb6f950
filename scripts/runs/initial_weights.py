# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..errors import DataError
from ..networks import match_tensors
from ..ranks import is_main_process
from ..tensor_files import SAFETENSORS, DamagedFileError, find_non_finite, load_tensors, read_weights
from .run import Run

__all__ = ["InitialWeights"]

logger = logging.getLogger(__name__)

NESTED = ("state_dict", "model", "network_weights", "model_state_dict")
"""Keys under which other programs keep a state dict: MONAI and Med3D, ours, nnU-Net and nnssl, others."""
SHOWN = 6


class InitialWeights:
    """Starts a training from the weights of an earlier one that trained the same networks (ours).

    For labelled pre-training, which most semi-supervised methods begin with, and for fine-tuning. MONAI's
    CheckpointLoader leaves a moving average of the network as it was, and loads the part that fits; of weights of this
    bundle's networks this one loads all or nothing. Of other programs' weights, such as of an encoder that was trained
    without labels, it loads what has the same names, apart from their beginnings, and shapes, and says what that is.

    Args:
        path: a state dict, such as the ``model.pt`` of a run, or ``.safetensors``; that of another program may lie
            under one of the keys of ``NESTED``.
        network: network to train, possibly inside DistributedDataParallel.
        average: a :class:`~scripts.networks.MovingAverage` of it that is to start there, too.
        required: whether weights of other networks are an error, and those of other programs are looked through; if
            not, the training starts from random weights.
        output_dir: the run's folder. ``initial_weights.json`` there says which weights were loaded; a run that is
            resumed from its ``last.pt`` needs ``path`` no more, and keeps that record. None: no record.

    Raises:
        DataError: when ``path`` cannot be read or, if ``required``, is of other networks, or nothing in it fits.
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
        self.run = None if output_dir is None else Run(output_dir)
        self.targets = [getattr(network, "module", network)] + ([] if average is None else [average.module])
        self.weights: dict[str, Tensor] | None = None
        self.matches: dict[str, list[str]] = {}
        if self.run is not None and self.run.can_resume:
            self._mend_record(required)
            return
        own = self.targets[0].state_dict()
        self.weights = _read(self.path)
        if difference := _difference(self.weights, own):
            if required and not self.weights.keys() & own.keys():  # of another program
                self.weights = own | self._matching(self.weights, own)
            elif required:
                raise DataError(
                    f"{self.path}: is of other networks than this run's ({difference}). Train with the labels, "
                    "base_channels, stem_stride, strides and norm that it was trained with, or without "
                    "--initial_weights."
                )
            else:
                logger.warning("%s is of other networks: training starts from random weights", self.path)
                self.weights = None

    def _matching(self, theirs: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of another program's weights fits, under our names; the rest is told."""
        found = match_tensors(theirs, own, sorted({f"{name.split('.')[0]}." for name in own if "." in name}) or [""])
        if not found:
            raise DataError(
                f"{self.path}: nothing in it fits this run's networks. It has {_shown(theirs)}, they {_shown(own)}. "
                "Configure the network that these weights are of, see docs/methods.md, or leave out --initial_weights."
            )
        used = set(found.values())
        self.matches = {
            "matched": [f"{name} from {other}" for name, other in found.items()],
            "not_used": [name for name in theirs if name not in used],
            "not_in_it": [name for name in own if name not in found],
        }
        for kind, names in self.matches.items():
            shown = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
            logger.info("%s: %d tensors %s. %s", self.path, len(names), kind.replace("_", " "), shown)
        return {name: theirs[other] for name, other in found.items()}

    def _mend_record(self, required: bool) -> None:
        """The training has begun; only the note of how may have been lost."""
        if not is_main_process() or (not required and not self.run.start_file.exists()):
            return  # weights of other networks were not used, and leave no note
        try:
            lost = self.run.initial_weights() is None
        except DataError:
            lost = True
        if lost:
            logger.warning("%s is lost or damaged; the config says %s", self.run.start_file, self.path)
            self.run.note_initial_weights(self.path)

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, before the handler that resumes an interrupted run."""
        if self.weights is not None:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights and note where they are from."""
        for target in self.targets:
            target.load_state_dict(self.weights)
        if self.run is not None and engine.state.rank == 0:
            self.run.note_initial_weights(self.path, **self.matches)
        logger.info("Training starts from %s", self.path)


def _read(path: str) -> dict[str, Tensor]:
    remedy = "Name the model.pt of a finished run with --initial_weights."
    try:
        weights = read_weights(path) if path.endswith(SAFETENSORS) else load_tensors(Path(path))
    except DamagedFileError as error:
        raise DataError(f"{error}. {remedy}") from error
    if isinstance(weights, dict):
        weights = next((weights[key] for key in NESTED if isinstance(weights.get(key), dict)), weights)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise DataError(f"{path}: is no flat state dict. {remedy}")
    if (name := find_non_finite(weights)) is not None:
        raise DataError(f"{path}: {name} is not finite. {remedy}")
    return weights


def _shown(weights: dict[str, Tensor]) -> str:
    """The first kernels of a state dict, with their shapes."""
    kernels = [f"{name} {tuple(value.shape)}" for name, value in weights.items() if value.ndim > 1]
    return ", ".join(kernels[:3]) + (" ..." if len(kernels) > 3 else "")


def _difference(weights: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    """The first difference of names or shapes, in words; None if there is none."""
    for name, value in own.items():
        if name not in weights:
            return f"{name} is missing in it"
        if weights[name].shape != value.shape:
            return f"{name} is {tuple(weights[name].shape)} there, {tuple(value.shape)} here"
    extra = [name for name in weights if name not in own]
    return f"{extra[0]} is not in this run's" if extra else None
