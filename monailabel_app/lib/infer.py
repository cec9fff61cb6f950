# SPDX-License-Identifier: Apache-2.0
"""Segmentation by the ensemble of both networks, always with the newest model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.infer.bundle import BundleConstants, BundleInferTask
from monailabel.utils.others.generic import device_list

from scripts.data import DataError, check_data

from .models import Model, newest_model
from .settings import Settings

NO_MODEL = "No model yet for {structures}: save a label for one scan or more as final, then train."


class SegmentationTask(InferTask):
    """Segments with the newest model; a training that finishes while the server runs is noticed (ours).

    Args:
        settings: of the server.
        conf: of the server, as MONAI Label gives it to its tasks.
    """

    def __init__(self, settings: Settings, conf: dict[str, str]) -> None:
        description = "Segmentation by the mean of two networks trained on labelled and unlabelled scans"
        super().__init__(InferType.SEGMENTATION, settings.structures, 3, description, {"device": device_list()})
        self.settings = settings
        self.conf = conf
        self._model: Model | None = None
        self._task: EnsembleTask | None = None
        self._lock = threading.Lock()

    def is_valid(self) -> bool:
        """Always: clients list the model before its first training too."""
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """The weights in use, None before the first training."""
        model = newest_model(self.settings)
        return str(model.weights) if model else None

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment one scan.

        Returns:
            The label's file, and what clients are told: ``label_names``, ``model`` (its version), ``note`` if any.

        Raises:
            HTTPException: 409 when there is no model yet, 422 when the scan cannot be used.
        """
        with self._lock:
            self._refresh()
            task, version = self._task, self._model.version
        if isinstance(request["image"], str):
            try:
                check_scan(request["image"], task.channels)
            except DataError as error:
                raise HTTPException(422, str(error)) from error
        file, result = task({"result_dtype": "uint8", **request})
        return file, {**result, "model": version}

    def _refresh(self) -> None:
        model = newest_model(self.settings)
        if model is None:
            raise HTTPException(409, NO_MODEL.format(structures=", ".join(self.settings.structures)))
        if model != self._model:
            self._task = EnsembleTask(self.settings, self.conf, model)
            self._model = model


class EnsembleTask(BundleInferTask):
    """MONAI Label's task for bundles, with the weights and the config of one training.

    Args:
        settings: of the server.
        conf: of the server.
        model: what to segment with.
    """

    def __init__(self, settings: Settings, conf: dict[str, str], model: Model) -> None:
        self.model = model
        super().__init__(str(settings.bundle), conf, const=_ModelFiles(model), load_strict=True)
        self.labels = settings.structures
        self.channels = self.bundle_config.get_parsed_content("in_channels")
        self._config.pop("model_filename")  # the bundle's own weights, which need not be for these structures

    def _load_bundle_config(self, path: str, config: str) -> ConfigParser:
        return self.model.parser(path)

    def inferer(self, data: dict[str, Any] | None = None) -> Inferer:
        """The sliding window; a scan that it does not fit into is noted for the client."""
        inferer = super().inferer(data)
        shape, window = data[self.key_image].shape[1:], inferer.roi_size
        if any(length < wanted for length, wanted in zip(shape, window, strict=True)):
            note = f"The scan is smaller than the networks' window ({_size(shape)} < {_size(window)} voxels): padded."
            data.setdefault(self.output_json_key, {})["note"] = note
        return inferer


def check_scan(image: str, channels: int) -> None:
    """Read a scan once.

    Raises:
        DataError: when it cannot be used: file, what is wrong, remedy.
    """
    check_data({"labels": {}, "unlabeled": [{"image": image}]}, {0: "background"}, channels, progress=False)


class _ModelFiles(BundleConstants):
    """Where the weights are: the path is absolute, so MONAI Label takes it as it is."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def model_pytorch(self) -> str:
        return str(self.model.weights)


def _size(lengths: Sequence[int]) -> str:
    return " x ".join(str(int(length)) for length in lengths)
