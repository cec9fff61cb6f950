# SPDX-License-Identifier: Apache-2.0
"""MONAI Label app: annotate a few scans, train on all of them.

    monailabel start_server --app BUNDLE/monailabel_app --studies FOLDER --conf labels "liver,tumour"

See docs/monailabel.md.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BUNDLE))  # the bundle's package `scripts`

import requests  # noqa: E402
from fastapi import HTTPException  # noqa: E402
from lib.infer import SegmentationTask  # noqa: E402
from lib.messages import show_refusals_briefly  # noqa: E402
from lib.models import newest_model  # noqa: E402
from lib.scoring import METHODS, ModelScoring  # noqa: E402
from lib.settings import Settings  # noqa: E402
from lib.strategy import HighestScore  # noqa: E402
from lib.train import SemiSupervisedTrainTask  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.interfaces.exception import MONAILabelException  # noqa: E402
from monailabel.interfaces.tasks.infer_v2 import InferTask  # noqa: E402
from monailabel.interfaces.tasks.scoring import ScoringMethod  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402
from monailabel.interfaces.tasks.train import TrainTask  # noqa: E402
from monailabel.tasks.activelearning.first import First  # noqa: E402
from monailabel.tasks.activelearning.random import Random  # noqa: E402

logger = logging.getLogger(__name__)


class DualSegApp(MONAILabelApp):
    """Segmentation, semi-supervised training and active learning for the scans of one MONAI Label datastore.

    Args:
        app_dir: this folder.
        studies: folder of scans, or address of a DICOMweb or XNAT server.
        conf: see :class:`lib.settings.Settings`.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.settings = Settings.from_conf(BUNDLE, Path(app_dir), conf)
        newest_model(self.settings)  # refuses to start for other structures than the model has
        super().__init__(
            app_dir,
            studies,
            conf,
            name="dualseg",
            description="Annotate a few scans, train on all of them (arXiv 2509.13084)",
            labels=list(self.settings.structures),
        )

    def init_infers(self) -> dict[str, InferTask]:
        return {self.settings.name: SegmentationTask(self.settings, self.conf)}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {self.settings.name: SemiSupervisedTrainTask(self.settings, self.conf)}

    def init_strategies(self) -> dict[str, Strategy]:
        unsure = {method: HighestScore(self.settings, method) for method in METHODS}
        return {**unsure, "random": Random(), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {method: ModelScoring(self.settings, method) for method in METHODS}

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """As in MONAI Label, with errors as messages that reach the client."""
        image = request.get("image")
        if isinstance(image, str) and not Path(image).exists() and not self.datastore().get_image_uri(image):
            raise HTTPException(404, f"No scan {image!r} among the studies. Reload the list of scans.")
        try:
            return super().infer(request, datastore)
        except MONAILabelException as error:
            raise HTTPException(422, f"{image}: {error.msg}") from error

    def bundle_path(self, model: str | None) -> str | None:
        """As in MONAI Label, whose server asks for it just before it starts a training.

        It is the one place where a training can be refused with a message that the client shows.
        """
        if model in self._trainers:
            self._trainers[model].refuse_without_labels(self.datastore())
        return super().bundle_path(model)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """As in MONAI Label; in the process of a training a refusal is its last line, not a traceback."""
        if not self._server_mode:
            show_refusals_briefly()
        return super().train(request)

    def async_scoring(self, method: str | None, params: Any = None) -> dict[str, Any]:
        """As in MONAI Label, which calls it at its start, after a training and whenever it hands out a scan.

        Without a method it starts one process if the model in use has scans to score, none otherwise.
        """
        if method is None:
            method = next(iter(METHODS))  # it gives the other scores too
            if not self._scoring_methods or not self._scoring_methods[method].pending(self.datastore()):
                return {}
        try:
            return super().async_scoring(method, params)
        except requests.ConnectionError:
            logger.info("No server to score the scans")
            return {}
