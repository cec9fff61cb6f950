# SPDX-License-Identifier: Apache-2.0
"""Which scan to annotate next."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from .models import newest_model
from .scoring import METHODS, Scores
from .settings import Settings


class HighestScore(Strategy):
    """The scan that the model in use is least sure of (ours).

    A scan that was handed out since the model in use was trained comes after all others: two annotators get two scans,
    and asking again gives the next one. Before there is a model, or for scans that it has not scored yet, the order is
    the datastore's, after those that are scored.

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
        names = datastore.get_unlabeled_images()
        if not names:
            return None
        model = newest_model(self.settings)
        found = self.scores.read(model)
        scores = {name: one[self.method] for name, one in found.items() if self.method in one}

        def order(name: str) -> tuple[float, float]:
            served = datastore.get_image_info(name).get("strategy", {}).get(self.method, {}).get("ts", 0)
            return (served if served >= since else 0, -scores.get(name, -1.0))

        since = model.trained if model else 0
        chosen = min(names, key=order)
        return {"id": chosen, "score": scores.get(chosen), "model": model.version if model else None}
