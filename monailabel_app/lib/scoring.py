# SPDX-License-Identifier: Apache-2.0
"""What the two networks say of each scan: how unsure they are of it, and which scans are like it."""

from __future__ import annotations

import json
import logging
import math
import time
from typing import Any

import torch
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.utils.others.generic import name_to_device

from scripts.data import DataError
from scripts.files import replace_file
from scripts.inference import ScanDescriptions

from .infer import check_scan
from .models import Model, Predictor, model_in_use
from .settings import Settings

logger = logging.getLogger(__name__)

METHODS = {
    "disagreement": "1 - mean foreground Dice between the two networks",
    "entropy": "Mean entropy of the ensemble over the voxels that either network takes for a structure",
}


FEATURES = "features"
"""Key of what the networks see in a scan, a vector, beside its scores."""

SAVE_SECONDS = 10.0
"""How often what is scored so far is written: with many scans the file is large."""


class Scores:
    """The scores and features of the scans by one model, in a file beside the models (ours).

    They are not kept in the datastore: scoring runs in a process of its own, and MONAI Label's datastore file holds
    what its last writer knew, labels included.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = settings.models_dir / f"{settings.name}_scores.json"

    def read(self, model: Model | None) -> dict[str, dict[str, Any]]:
        """Scores by scan and method, and its features, or its ``error``; none where the file is of another model."""
        if model is None or not self.path.exists():
            return {}
        content = json.loads(self.path.read_text())
        return content["scores"] if content["model"] == model.version else {}

    def write(self, model: Model, scores: dict[str, dict[str, Any]]) -> None:
        """Replace the file."""
        with replace_file(self.path) as path:
            path.write_text(json.dumps({"model": model.version, "scores": scores}) + "\n")


class ModelScoring(ScoringMethod):
    """Scores every scan that the model in use has not scored yet, by all methods at once (ours).

    Scans with a label, too: which of the others are like them is to be known.

    Args:
        settings: of the server.
        method: a key of ``METHODS``.
    """

    def __init__(self, settings: Settings, method: str) -> None:
        super().__init__(METHODS[method])
        self.settings = settings
        self.scores = Scores(settings)

    def pending(self, datastore: Datastore) -> list[str]:
        """Scans that the model in use has to score; none while there is no model."""
        model = model_in_use(self.settings)
        scored = self.scores.read(model)
        names = [*datastore.get_unlabeled_images(), *datastore.get_labeled_images()]
        return [name for name in names if name not in scored] if model else []

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score.

        Returns:
            ``total`` scans, ``executed`` and ``skipped`` of them, ``model`` that scored (None without).
        """
        names = self.pending(datastore)
        model = model_in_use(self.settings)
        total = len(datastore.list_images())
        if names:
            scores = self.scores.read(model)
            networks = Predictor(model, self.settings.bundle, torch.device(name_to_device(request.get("device"))))
            descriptions, written = ScanDescriptions(networks.ensemble), time.monotonic()
            for number, name in enumerate(names, start=1):
                try:
                    image = datastore.get_image_uri(name)
                    check_scan(image, networks.channels)
                    scan, a, b, both = networks.logits(image)
                    features = descriptions.take(scan, both[0].softmax(dim=0))
                    scores[name] = {**score(a, b, both), FEATURES: [float(f"{value:.5g}") for value in features]}
                except DataError as error:  # noted, so that one bad scan keeps no other from its score
                    scores[name] = {"error": str(error)}
                told = {key: value for key, value in scores[name].items() if key != FEATURES}
                logger.info("Scored %d of %d: %s %s", number, len(names), name, told)
                if number == len(names) or time.monotonic() - written > SAVE_SECONDS:
                    self.scores.write(model, scores)
                    written = time.monotonic()
        return {
            "total": total,
            "executed": len(names),
            "skipped": total - len(names),
            "model": model.version if model else None,
        }


def score(logits_a: torch.Tensor, logits_b: torch.Tensor, ensemble: torch.Tensor) -> dict[str, float]:
    """How unsure two networks are of one scan (ours).

    Args:
        logits_a: of the first network [1,C,*S].
        logits_b: of the second.
        ensemble: logarithm of the mean of their probabilities [1,C,*S].

    Returns:
        ``disagreement``: 1 - the Dice between the networks' classes, mean over those foreground classes that at least
        one of them finds. ``entropy``: of the ensemble, as a fraction of log C, mean over the voxels that at least one
        of them takes for foreground. Both in [0, 1], and 1 where neither finds any foreground: worth a look.
    """
    classes = logits_a.shape[1]
    found_a, found_b = (logits.argmax(dim=1, keepdim=True) for logits in (logits_a, logits_b))
    foreground = (found_a > 0) | (found_b > 0)
    if not foreground.any():
        return {"disagreement": 1.0, "entropy": 1.0}
    one_hot_a, one_hot_b = one_hot(found_a, classes), one_hot(found_b, classes)
    dice = compute_dice(one_hot_a, one_hot_b, include_background=False, ignore_empty=False)
    found = (one_hot_a + one_hot_b)[:, 1:].flatten(2).any(dim=2)
    log_p = ensemble.float().log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1, keepdim=True) / math.log(classes)
    return {
        "disagreement": round(1 - dice[found].mean().item(), 6),
        "entropy": round(entropy[foreground].mean().item(), 6),
    }
