# SPDX-License-Identifier: Apache-2.0
"""Segmentation by the ensemble of both networks, with the model in use or another that the client names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from fastapi import HTTPException
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.infer.bundle import BundleConstants, BundleInferTask
from monailabel.utils.others.generic import device_list, name_to_device
from torch import Tensor

from scripts.data import DataError, check_data, find_weights
from scripts.inference import disagreement_map, entropy_map

from .models import Model, Predictor, all_models, find_model, model_in_use, save_on_scan
from .options import read_infer_options
from .settings import Settings

IN_USE = "in use"
"""What a client gives as ``version`` for the model in use."""

NO_MAP = "no"

MAPS: dict[str, Callable[[Mapping[str, Tensor]], Tensor]] = {
    "entropy": lambda found: entropy_map(found["pred"].as_tensor()),
    "disagreement": lambda found: disagreement_map(found["pred_a"].as_tensor(), found["pred_b"].as_tensor()),
}
"""What a client may ask for as ``uncertainty``, a second volume beside the segmentation."""

NO_MODEL = "No model yet for {structures}: save a label for one scan or more as final, then train."


class SegmentationTask(InferTask):
    """Segments with the model in use; a training that finishes while the server runs is noticed (ours).

    A request may name another model as ``version``.

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

    def config(self) -> dict[str, Any]:
        """Options of a request, as clients show them; of a list the first is the default."""
        versions = [IN_USE, *(model.name for model in all_models(self.settings))]
        return {**super().config(), "version": versions, "uncertainty": [NO_MAP, *MAPS]}

    def info(self) -> dict[str, Any]:
        """As in MONAI Label, with the colours of the structures."""
        return {**super().info(), "label_colors": self.settings.colors}

    def get_path(self, validate: bool = True) -> str | None:
        """The weights in use, None before the first training."""
        model = model_in_use(self.settings)
        return str(model.weights) if model else None

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment one scan.

        Returns:
            The label's file, and what clients are told: ``label_names``, ``model`` (its version), ``note`` if any.

        Raises:
            DataError: when the model's file is damaged or holds something else than tensors.
            HTTPException: 400 when an option makes no sense, 404 for a model that there is not, 409 when there is no
                model yet, 422 when the scan cannot be used.
        """
        options = read_infer_options(request, self.config())
        with self._lock:
            self._refresh(options["version"])
            task, version = self._task, self._model.version
        if isinstance(request["image"], str):
            try:
                check_scan(request["image"], task.channels)
            except DataError as error:
                raise HTTPException(422, str(error)) from error
        file, result = task({"result_dtype": "uint8", **request})
        return file, {**result, "model": version, "label_colors": self.settings.colors}

    def refuse(self, request: dict[str, Any]) -> None:
        """Raise HTTPException when an option makes no sense or there is no model."""
        self.find(read_infer_options(request, self.config())["version"])

    def uncertainty(self, request: dict[str, Any]) -> str | None:
        """How unsure the networks are of each voxel, 0 to 1: a file on the scan's grid; None if it was not asked for.

        Args:
            request: with the file of the scan as ``image``, and the options of a segmentation.
        """
        options = read_infer_options(request, self.config())
        if options["uncertainty"] == NO_MAP:
            return None
        device = torch.device(name_to_device(request.get("device") or "cuda"))
        networks = Predictor(self.find(options["version"]), self.settings.bundle, device)
        voxels = MAPS[options["uncertainty"]](networks.probabilities(request["image"]))
        return save_on_scan(voxels.clamp(0, 1).numpy().astype("float32"), request["image"])

    def find(self, version: str = IN_USE) -> Model:
        """The model of this name; HTTPException 404 when there is none, 409 when there is none to be in use."""
        if version != IN_USE:
            try:
                return find_model(self.settings, version)
            except DataError as error:
                raise HTTPException(404, str(error)) from error
        model = model_in_use(self.settings)
        if model is None:
            raise HTTPException(409, NO_MODEL.format(structures=", ".join(self.settings.structures)))
        return model

    def _refresh(self, version: str) -> None:
        model = self.find(version)
        if model != self._model:
            find_weights(str(model.weights))  # before MONAI Label reads it
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


def check_scan(image: str, channels: int | None) -> None:
    """Read a scan once; None: it may have any number of channels.

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
