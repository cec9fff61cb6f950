# SPDX-License-Identifier: Apache-2.0
"""Which scan to annotate next."""

from __future__ import annotations

import math
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from scripts.inference import farthest_first

from .models import model_in_use
from .scoring import FEATURES, METHODS, Scores
from .settings import Settings

DIVERSITY = "diversity"
"""Name of the strategy that goes by how unlike scans are."""


class HighestScore(Strategy):
    """The scan that the model in use is least sure of (ours).

    A scan that was handed out since the model in use was trained comes after all others: two annotators get two scans,
    and asking again gives the next one. Before there is a model, or for scans that it has not scored yet, the order is
    that of the names, after those that are scored.

    Args:
        settings: of the server.
        method: a key of ``METHODS``; also the strategy's name.
    """

    def __init__(self, settings: Settings, method: str) -> None:
        super().__init__(f"The scan with the highest score: {METHODS[method]}")
        self.settings = settings
        self.method = method
        self.scores = Scores(settings)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose.

        Returns:
            ``id`` of the scan, its ``score`` (None if it has none) and ``model`` that gave it; None when every scan has
            a label.
        """
        names = sorted(datastore.get_unlabeled_images())
        if not names:
            return None
        model = model_in_use(self.settings)
        found = self.scores.read(model)
        scores = {name: one[self.method] for name, one in found.items() if self.method in one}

        since = model.trained if model else 0

        def order(name: str) -> tuple[float, float]:
            return _handed_out(datastore, name, self.method, since), -scores.get(name, -1.0)

        chosen = min(names, key=order)
        return {"id": chosen, "score": scores.get(chosen), "model": model.version if model else None}


class FarthestFromSeen(Strategy):
    """The scan that is least like those with a label, in the eyes of the networks of the model in use (ours).

    A scan that was handed out since the model in use was trained counts as if it had a label, and comes after all
    others. Before there is a model, or for scans that it has not scored yet, the order is that of the names, after
    those that are scored.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("The scan whose features are farthest from those of the scans with a label")
        self.settings = settings
        self.scores = Scores(settings)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose.

        Returns:
            ``id`` of the scan; its ``score``, the distance to the nearest scan with a label, in standard deviations of
            the features (None if there is none); ``model`` that gave it; None when every scan has a label.
        """
        names = sorted(datastore.get_unlabeled_images())
        if not names:
            return None
        model = model_in_use(self.settings)
        since = model.trained if model else 0
        features = {name: one[FEATURES] for name, one in self.scores.read(model).items() if FEATURES in one}
        handed_out = {name: time for name in names if (time := _handed_out(datastore, name, DIVERSITY, since))}
        seen = [features[name] for name in (*datastore.get_labeled_images(), *handed_out) if name in features]
        waiting = [name for name in names if name not in handed_out]
        described = [name for name in waiting if name in features]
        score = None
        if described:
            number, distance = next(farthest_first([features[name] for name in described], seen))
            chosen, score = described[number], round(distance, 4) if math.isfinite(distance) else None
        else:
            chosen = waiting[0] if waiting else min(names, key=handed_out.__getitem__)
        return {"id": chosen, "score": score, "model": model.version if model else None}


def _handed_out(datastore: Datastore, name: str, strategy: str, since: float) -> float:
    """When a strategy has handed out a scan last, in seconds since 1970; 0 if that was before ``since`` or never."""
    served = datastore.get_image_info(name).get("strategy", {}).get(strategy, {}).get("ts", 0)
    return served if served >= since else 0
