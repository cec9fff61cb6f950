# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys as Keys
from monai.utils import StrEnum

from ..errors import DataError
from ..tensor_files import DamagedFileError, load_tensors

__all__ = ["DualEvaluator", "DualKeys"]


class DualKeys(StrEnum):
    """Keys of further predictions in ``engine.state.output``, beside the ensemble's ``pred``."""

    PRED_A = "pred_a"
    PRED_B = "pred_b"
    PRED_SUPERVISED = "pred_supervised"


class DualEvaluator(SupervisedEvaluator):
    """Evaluates both networks and their ensemble in one pass of the inferer (ours, after MONAI's SupervisedEvaluator).

    ``network`` is a ``DualEnsemble``. ``engine.state.output`` holds ``image``, ``label`` and three predictions
    [B,C,*S]: ``pred`` (the ensemble's log-probabilities, exactly what inference computes), ``pred_a`` and ``pred_b``
    (each network's logits). Where there is a file of ``supervised_weights`` when the evaluation starts, it also holds
    ``pred_supervised``: the ensemble as it was before the unlabelled scans, on the same images, so that anyone can see
    what these have added.

    Args:
        supervised_weights: state dict of the ensemble at the end of the supervised part; the file need not exist.
        args, kwargs: as in ``monai.engines.SupervisedEvaluator``.
    """

    def __init__(self, *args: Any, supervised_weights: str | os.PathLike | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supervised_weights = supervised_weights
        self.supervised: torch.nn.Module | None = None
        self.add_event_handler(Events.STARTED, DualEvaluator._load_supervised)

    def _load_supervised(self) -> None:
        if self.supervised_weights is not None and os.path.exists(self.supervised_weights):
            try:
                weights = load_tensors(Path(self.supervised_weights), self.state.device)
            except DamagedFileError as error:
                raise DataError(f"{error}. Put back a copy, or delete it to score without it.") from error
            self.supervised = deepcopy(self.network)
            self.supervised.load_state_dict(weights)
            self.supervised.eval()

    def _iteration(self, engine: DualEvaluator, batchdata: dict[str, torch.Tensor]) -> dict:
        """Predict one batch.

        Raises:
            ValueError: when ``batchdata`` is None.
        """
        if batchdata is None:
            raise ValueError("Must provide batch data for current iteration.")
        image, label = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        engine.state.output = {Keys.IMAGE: image, Keys.LABEL: label}
        with engine.mode(engine.network), torch.autocast(image.device.type, enabled=engine.amp, **engine.amp_kwargs):
            logits_a, logits_b, ensemble = engine.inferer(image, engine.network.members)
            if engine.supervised is not None:
                engine.state.output[DualKeys.PRED_SUPERVISED] = engine.inferer(image, engine.supervised)
        engine.state.output.update({Keys.PRED: ensemble, DualKeys.PRED_A: logits_a, DualKeys.PRED_B: logits_b})
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
