# SPDX-License-Identifier: Apache-2.0
"""MONAI Label app: annotate a few scans, train on all of them.

    monailabel start_server --app BUNDLE/monailabel_app --studies FOLDER --conf labels "liver,tumour"

See docs/monailabel.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BUNDLE))  # the bundle's package `scripts`

import requests  # noqa: E402
from fastapi import HTTPException  # noqa: E402
from lib.batch import Proposals  # noqa: E402
from lib.correction import CorrectionTask  # noqa: E402
from lib.dicomweb import SeriesDatastore  # noqa: E402
from lib.infer import SegmentationTask, check_scan  # noqa: E402
from lib.labels import LabelChecks  # noqa: E402
from lib.messages import show_refusals_briefly  # noqa: E402
from lib.models import model_in_use  # noqa: E402
from lib.scoring import METHODS, ModelScoring  # noqa: E402
from lib.server import install  # noqa: E402
from lib.settings import Settings  # noqa: E402
from lib.shared_list import OneAtATime  # noqa: E402
from lib.strategy import DIVERSITY, FarthestFromSeen, HighestScore  # noqa: E402
from lib.train import SemiSupervisedTrainTask  # noqa: E402
from monailabel.interfaces import app as monailabel_app  # noqa: E402
from monailabel.interfaces.datastore import Datastore  # noqa: E402
from monailabel.interfaces.exception import MONAILabelException  # noqa: E402
from monailabel.interfaces.tasks.infer_v2 import InferTask  # noqa: E402
from monailabel.interfaces.tasks.scoring import ScoringMethod  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402
from monailabel.interfaces.tasks.train import TrainTask  # noqa: E402
from monailabel.tasks.activelearning.first import First  # noqa: E402
from monailabel.tasks.activelearning.random import Random  # noqa: E402

logger = logging.getLogger(__name__)


class DualSegApp(monailabel_app.MONAILabelApp):
    """Segmentation, semi-supervised training and active learning for the scans of one MONAI Label datastore.

    Args:
        app_dir: this folder.
        studies: folder of scans, or address of a DICOMweb or XNAT server.
        conf: see :class:`lib.settings.Settings`.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.settings = Settings.from_conf(BUNDLE, Path(app_dir), conf)
        self.label_checks = LabelChecks(self.settings)
        model_in_use(self.settings)  # refuses to start for other structures than the model has
        super().__init__(
            app_dir,
            studies,
            conf,
            name="dualseg",
            description="Annotate a few scans, train on all of them (arXiv 2509.13084)",
            labels=list(self.settings.structures),
        )

    def init_datastore(self) -> Datastore:
        # here and below MONAI Label reads its settings, but names its own class
        monailabel_app.LocalDatastore = OneAtATime
        return super().init_datastore()

    def _init_dicomweb_datastore(self) -> Datastore:
        monailabel_app.DICOMWebDatastore = partial(SeriesDatastore, self.settings.structures)
        return super()._init_dicomweb_datastore()

    def init_infers(self) -> dict[str, InferTask]:
        segmentation = SegmentationTask(self.settings, self.conf)
        correction = CorrectionTask(self.settings, segmentation.find, check_scan)
        return {self.settings.name: segmentation, f"{self.settings.name}_scribbles": correction}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {self.settings.name: SemiSupervisedTrainTask(self.settings, self.conf)}

    def init_strategies(self) -> dict[str, Strategy]:
        unsure = {method: HighestScore(self.settings, method) for method in METHODS}
        # clients show the first as the default
        return {"random": Random(), **unsure, DIVERSITY: FarthestFromSeen(self.settings), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {method: ModelScoring(self.settings, method) for method in METHODS}

    def init_batch_infer(self) -> Callable:
        return Proposals()

    def on_init_complete(self) -> None:
        """As in MONAI Label, which calls it when the server has started and answers nobody yet."""
        from monailabel.app import app as server  # made by then; a training's process has none

        install(server, self)
        super().on_init_complete()

    def trainer(self, model: str) -> SemiSupervisedTrainTask:
        """What trains this model; HTTPException 404 when there is no such model."""
        _refuse_unknown("model", model, self._trainers)
        return self._trainers[model]

    def refuse_infer(self, model: str, request: dict[str, Any]) -> None:
        """Raise HTTPException when a segmentation with these options could not even begin."""
        _refuse_unknown("model", model, self._infers)
        self._infers[model].refuse(request)

    def refuse_method(self, method: str) -> None:
        """Raise HTTPException 404 when there is no such way of scoring."""
        _refuse_unknown("scoring method", method, self._scoring_methods)

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """As in MONAI Label, with errors as messages that reach the client."""
        _refuse_unknown("model", request.get("model"), self._infers)
        image = request.get("image")
        if isinstance(image, str) and not Path(image).exists() and not self.datastore().get_image_uri(image):
            raise HTTPException(404, f"No scan {image!r} among the studies. Reload the list of scans.")
        try:
            return super().infer(request, datastore)
        except MONAILabelException as error:
            raise HTTPException(422, f"{image}: {error.msg}") from error

    def uncertainty(self, request: dict[str, Any]) -> str | None:
        """File of the map of uncertainty that a segmentation's request asks for; None if it asks for none."""
        task = self._infers[request["model"]]
        if not isinstance(task, SegmentationTask):
            return None
        return task.uncertainty({**request, "image": self.datastore().get_image_uri(request["image"])})

    def infer_wsi(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Refused: there are no whole slides here, and the request could name any file of the server."""
        raise HTTPException(404, "This app has no model for whole slides.")

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """As in MONAI Label, with an unknown strategy as a message that reaches the client."""
        _refuse_unknown("strategy", request.get("strategy"), self._strategies)
        return super().next_sample(request)

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


def _refuse_unknown(kind: str, name: str | None, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise HTTPException(404, f"No {kind} {name!r}. There are: {', '.join(known)}.")
