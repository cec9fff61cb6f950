# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys as Keys
from monai.utils import StrEnum

__all__ = ["DualEvaluator", "DualKeys"]


class DualKeys(StrEnum):
    """Keys of the two networks' predictions in ``engine.state.output``, beside the ensemble's ``pred``."""

    PRED_A = "pred_a"
    PRED_B = "pred_b"


class DualEvaluator(SupervisedEvaluator):
    """Evaluates both networks and their ensemble in one pass of the inferer (ours, after MONAI's SupervisedEvaluator).

    ``network`` is a ``DualEnsemble``. ``engine.state.output`` holds ``image``, ``label`` and three predictions
    [B,C,*S]: ``pred`` (the ensemble's log-probabilities, exactly what inference computes), ``pred_a`` and ``pred_b``
    (each network's logits). Arguments as in ``monai.engines.SupervisedEvaluator``.
    """

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
        engine.state.output.update({Keys.PRED: ensemble, DualKeys.PRED_A: logits_a, DualKeys.PRED_B: logits_b})
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
