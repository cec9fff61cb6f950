# SPDX-License-Identifier: Apache-2.0
"""How unsure the two networks are of each scan that has no label yet."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.utils.others.generic import name_to_device

from scripts.data import DataError
from scripts.data.atomic import replace_file

from .infer import check_scan
from .models import Model, newest_model
from .settings import Settings

logger = logging.getLogger(__name__)

METHODS = {
    "disagreement": "1 - mean foreground Dice between the two networks",
    "entropy": "Mean entropy of the ensemble over the voxels that either network takes for a structure",
}


class Scores:
    """The scores of the scans by one model, in a file beside the models (ours).

    They are not kept in the datastore: scoring runs in a process of its own, and MONAI Label's datastore file holds
    what its last writer knew, labels included.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = settings.models_dir / f"{settings.name}_scores.json"

    def read(self, model: Model | None) -> dict[str, dict[str, Any]]:
        """Scores by scan and method, or ``error`` of a scan; none where the file is of another model."""
        if model is None or not self.path.exists():
            return {}
        content = json.loads(self.path.read_text())
        return content["scores"] if content["model"] == model.version else {}

    def write(self, model: Model, scores: dict[str, dict[str, Any]]) -> None:
        """Replace the file."""
        with replace_file(self.path) as path:
            path.write_text(json.dumps({"model": model.version, "scores": scores}, indent=1) + "\n")


class ModelScoring(ScoringMethod):
    """Scores every scan without a label that the model in use has not scored yet, by all methods at once (ours).

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
        model = newest_model(self.settings)
        scored = self.scores.read(model)
        return [name for name in datastore.get_unlabeled_images() if name not in scored] if model else []

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score.

        Returns:
            ``total`` scans without a label, ``executed`` and ``skipped`` of them, ``model`` that scored (None without).
        """
        names = self.pending(datastore)
        model = newest_model(self.settings)
        total = len(datastore.get_unlabeled_images())
        if names:
            scores = self.scores.read(model)
            scorer = _Scorer(model, self.settings.bundle, torch.device(name_to_device(request.get("device"))))
            for number, name in enumerate(names, start=1):
                try:
                    scores[name] = scorer(datastore.get_image_uri(name))
                except DataError as error:  # noted, so that one bad scan keeps no other from its score
                    scores[name] = {"error": str(error)}
                logger.info("Scored %d of %d: %s %s", number, len(names), name, scores[name])
                self.scores.write(model, scores)
        return {
            "total": total,
            "executed": len(names),
            "skipped": total - len(names),
            "model": model.version if model else None,
        }


class _Scorer:
    """Both networks of a model, on the grid on which they work."""

    def __init__(self, model: Model, bundle: Path, device: torch.device) -> None:
        parser = model.parser(bundle)
        parser["device"] = str(device)
        self.device = device
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        self.ensemble = parser.get_parsed_content("network").eval()
        self.channels = parser.get_parsed_content("in_channels")
        self.ensemble.load_state_dict(torch.load(model.weights, map_location=device, weights_only=True))

    @torch.no_grad()
    def __call__(self, image: str) -> dict[str, float]:
        check_scan(image, self.channels)
        scan = self.preprocessing({"image": image})["image"].as_tensor()[None].to(self.device)
        logits_a, logits_b, ensemble = self.inferer(scan, self.ensemble.members)
        return score(logits_a, logits_b, ensemble)


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
