# SPDX-License-Identifier: Apache-2.0
"""What 3D Slicer lists under *Scribbles*: one structure of a segmentation, corrected by strokes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from scripts.data import DataError

from ..models import Model, Predictor, save_on_scan
from ..settings import Settings
from .cut import cut
from .strokes import read_strokes

logger = logging.getLogger(__name__)

REACH = 1.2
SMOOTHNESS = 2.0

STRUCTURE = "structure"
ALL = "all structures"


class CorrectionTask(InferTask):
    """The networks' probabilities, bent towards strokes and clicks and cut along edges; see :mod:`.cut` (ours).

    The networks see a scan once: their probabilities are kept for the next strokes on it.

    Args:
        settings: of the server.
        model_in_use: gives the model to use; HTTPException when there is none.
        check: reads a scan once; DataError when it cannot be used.
    """

    def __init__(
        self, settings: Settings, model_in_use: Callable[[], Model], check: Callable[[str, int], None]
    ) -> None:
        description = "Corrects one structure by foreground and background scribbles, with the networks' probabilities"
        super().__init__(InferType.SCRIBBLES, settings.structures, 3, description, {})
        self.settings = settings
        self.model_in_use, self.check = model_in_use, check
        self._lock = threading.Lock()
        self._networks: tuple[tuple, Predictor] | None = None
        self._seen: tuple[tuple, np.ndarray] | None = None

    def is_valid(self) -> bool:
        """Always: clients list it before the first training too."""
        return True

    def config(self) -> dict[str, Any]:
        """Options of a request, as clients show them; of a list the first is the default."""
        return {"device": device_list(), "reach": REACH, "smoothness": SMOOTHNESS, "result": [STRUCTURE, ALL]}

    def refuse(self, request: Mapping[str, Any]) -> None:
        """Raise HTTPException: strokes are for one scan."""
        raise HTTPException(
            400, f"Scribbles are for one scan: POST /infer/... Proposals come from {self.settings.name}."
        )

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Correct one structure of one scan.

        Args:
            request: ``image``; strokes and clicks, see :func:`read_strokes`; ``selected_label_name``, the structure,
                which may be left out where there is only one; any of the options of :meth:`config`.

        Returns:
            The label's file, 0 and 1 (or, with ``result``, the values of all structures), and what clients are told:
            ``label_names``, ``model`` (its version), ``seconds`` of the networks and in all.

        Raises:
            HTTPException: 400 when an option makes no sense, 409 without a model, 422 when a file cannot be used.
        """
        start = time.monotonic()
        structure, reach, smoothness, result = self._options(request)
        model = self.model_in_use()
        with self._lock:
            probabilities = self._probabilities(model, request)
        networks = time.monotonic() - start
        scan = SimpleITK.ReadImage(request["image"])
        strokes, drawn = read_strokes(request, self.labels, structure, scan)
        proposal, value = probabilities.argmax(0), self.labels[structure]
        current = proposal == value if drawn is None else drawn
        image = SimpleITK.GetArrayFromImage(scan).transpose()
        found = cut(probabilities[value], current, image, strokes, scan.GetSpacing(), reach, smoothness)
        names, voxels = {structure: 1}, found.astype(np.uint8)
        if result == ALL:
            names, voxels = self.labels, _put(found, value, probabilities)
        file = save_on_scan(voxels, request["image"], request.get("result_extension"))
        seconds = {"networks": round(networks, 2), "total": round(time.monotonic() - start, 2)}
        logger.info("Corrected %s: %d voxels changed, %s", structure, int((found != current).sum()), seconds)
        return file, {"label_names": names, "model": model.version, "seconds": seconds}

    def _options(self, request: Mapping[str, Any]) -> tuple[str, float, float, str]:
        only = next(iter(self.labels)) if len(self.labels) == 1 else None
        structure = request.get("selected_label_name") or only
        if structure not in self.labels:
            raise HTTPException(400, f"selected_label_name {structure!r}: name one of {', '.join(self.labels)}.")
        numbers = []
        for name, default in (("reach", REACH), ("smoothness", SMOOTHNESS)):
            value = request.get(name, default)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1000:
                raise HTTPException(400, f"{name} {value!r}: a number above 0, such as {default}.")
            numbers.append(float(value))
        result = request.get("result", STRUCTURE)
        result = result[0] if isinstance(result, list) and result else result
        if result not in (STRUCTURE, ALL):
            raise HTTPException(400, f"result {result!r}: choose one of {STRUCTURE}, {ALL}.")
        return structure, *numbers, result

    def _probabilities(self, model: Model, request: Mapping[str, Any]) -> np.ndarray:
        image, device = request["image"], torch.device(name_to_device(request.get("device") or "cuda"))
        stat = Path(image).stat()
        key = (model, image, stat.st_mtime_ns, stat.st_size)
        if self._seen is None or self._seen[0] != key:
            if self._networks is None or self._networks[0] != (model, device):
                self._networks = (model, device), Predictor(model, self.settings.bundle, device)
            predictor = self._networks[1]
            try:
                self.check(image, predictor.channels)
            except DataError as error:
                raise HTTPException(422, str(error)) from error
            self._seen = key, predictor.probabilities(image)["pred"].numpy()
        return self._seen[1]


def _put(found: np.ndarray, value: int, probabilities: np.ndarray) -> np.ndarray:
    """The networks' classes with one structure replaced: what it has lost goes to the likeliest of the others."""
    others = probabilities.copy()
    others[value] = -1
    return np.where(found, value, others.argmax(0)).astype(np.uint8)
