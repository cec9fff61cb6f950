# SPDX-License-Identifier: Apache-2.0
"""Training on the labelled scans of a datastore and on those that have no label yet."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monai.bundle import ConfigParser
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list

from scripts.data import write_datalist

from .models import newest_model
from .progress import training_stats
from .settings import Settings

logger = logging.getLogger(__name__)

Cases = list[dict[str, Any]]

DEFAULT_METHOD = "dual_network"


class SemiSupervisedTrainTask(BundleTrainTask):
    """MONAI Label's training of bundles, with the unlabelled scans of the datastore as the second stream (ours).

    A training writes a datalist and a run of its own (see :mod:`lib.models`). The same request on the same labels,
    after a training that was stopped or killed, continues that training.

    Args:
        settings: of the server.
        conf: of the server, as MONAI Label gives it to its tasks.
    """

    def __init__(self, settings: Settings, conf: dict[str, str]) -> None:
        super().__init__(str(settings.bundle), conf)
        self.settings = settings
        self._options: dict[str, Any] = {}
        self._unlabeled: Cases = []

    def config(self) -> dict[str, Any]:
        """Options of a training with their defaults, as clients show them; of a list the first is the default."""
        recipes = [path.stem for path in sorted((self.settings.bundle / "configs" / "recipes").glob("*.json"))]
        methods = [path.stem for path in sorted((self.settings.bundle / "configs" / "methods").glob("*.json"))]
        return {
            "device": device_list(),
            "recipe": recipes,
            "method": [DEFAULT_METHOD, *methods],
            "max_unlabeled": -1,  # all
            "val_split": 0.2,
            "pretrained": True,
            "max_epochs": 0,  # as many as the recipe says; likewise the next
            "epoch_length": 0,
            "seed": 0,
            "multi_gpu": True,
            "gpus": "all",
        }

    def stats(self) -> dict[str, Any]:
        """How far the newest training is, for the client's progress bar."""
        return training_stats(self.settings)

    def refuse_without_labels(self, datastore: Datastore) -> None:
        """Raise HTTPException 400 when there is no label to learn from."""
        if not datastore.get_labeled_images():
            raise HTTPException(
                400,
                f"Too few labels: none of the {len(datastore.list_images())} scans has a final label. Segment "
                f"{', '.join(self.settings.structures)} in one scan or more, submit each label, then train.",
            )

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, and put the result in use.

        Args:
            request: any of the options of :meth:`config`.
            datastore: whose scans to train on.

        Returns:
            The statistics of the training.

        Raises:
            HTTPException: 400 when there is no label, or an option makes no sense.
            RuntimeError: when the training did not come to its end; the model in use is the same as before.
        """
        self.refuse_without_labels(datastore)
        before = newest_model(self.settings)
        options = self._read_options(request)
        layers = self._layers(options)
        self.bundle_config_path = [str(layer) for layer in layers]
        self.bundle_config = ConfigParser()
        self.bundle_config.read_config(self.bundle_config_path)
        for name in ("max_epochs", "epoch_length"):
            options[name] = options[name] or self.bundle_config.get_parsed_content(name)
        # validated at least once, or the scans kept back for it would be wasted
        options["val_interval"] = min(self.bundle_config.get_parsed_content("val_interval"), options["max_epochs"])
        self._options = options
        self._unlabeled = self._fetch_unlabeled(datastore)
        super().__call__({**request, **options}, datastore)
        model = newest_model(self.settings)
        if model == before:
            raise RuntimeError("The training did not come to its end; the log above says why.")
        for name in ("last.pt", "model_best.pt"):  # the state to resume from, and a copy of model.pt
            (model.weights.parent / name).unlink(missing_ok=True)
        logger.info("The model in use is now %s", model.version)
        return self.stats()

    def _read_options(self, request: dict[str, Any]) -> dict[str, Any]:
        choices = self.config()
        options = {name: request.get(name, default) for name, default in choices.items()}
        options = {name: value[0] if isinstance(value, list) else value for name, value in options.items()}
        for name in ("recipe", "method"):
            if options[name] not in choices[name]:
                raise HTTPException(400, f"{name} {options[name]!r}: choose one of {', '.join(choices[name])}.")
        if not 0 <= options["val_split"] < 1:
            raise HTTPException(400, f"val_split {options['val_split']}: a fraction of the labels, from 0 to below 1.")
        return options

    def _layers(self, options: dict[str, Any]) -> list[Path]:
        configs = self.settings.bundle / "configs"
        layers = [configs / "train.json", self.settings.dataset, configs / "recipes" / f"{options['recipe']}.json"]
        if options["method"] != DEFAULT_METHOD:
            layers.append(configs / "methods" / f"{options['method']}.json")
        return layers

    def _fetch_unlabeled(self, datastore: Datastore) -> Cases:
        names = _shuffled(datastore.get_unlabeled_images())
        wanted = self._options["max_unlabeled"]
        return [{"image": datastore.get_image_uri(name)} for name in (names if wanted < 0 else names[:wanted])]

    def _partition_datalist(self, datalist: Cases, request: dict[str, Any], shuffle: bool = False) -> tuple:
        """Take validation scans out of the labelled ones; at least one stays to train on.

        Which ones depends on their names alone, so that most stay on their side when labels are added.
        """
        count = min(round(request["val_split"] * len(datalist)), len(datalist) - 1)
        by_image = {case["image"]: case for case in datalist}
        ordered = [by_image[image] for image in _shuffled(by_image)]
        return ordered[count:], ordered[:count]

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list) -> None:
        model = newest_model(self.settings)
        if pretrained and model is not None:
            start = {"_target_": "scripts.handlers.InitialWeights", "path": str(model.weights), "required": False}
            start |= {"network": "@network", "average": "@average", "output_dir": "@output_dir"}
            train_handlers.insert(0, start)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        sections = {
            "training": overrides[self.const.key_train_dataset_data()],
            "unlabeled": self._unlabeled,
            "validation": overrides[self.const.key_validate_dataset_data()],
        }
        logger.info("Scans: %s", ", ".join(f"{len(cases)} {name}" for name, cases in sections.items()))
        datalist = self._write_datalist(sections)
        overrides.update(
            stock_app=False,
            dataset_dir=str(datalist.parent),
            datalist_name=datalist.name,
            dataset_name=self.settings.name,
            labels={str(value): name for value, name in self.settings.labels.items()},
            runs_dir=str(self.settings.models_dir),
            run_name=self.settings.name,
            **{name: self._options[name] for name in ("max_epochs", "epoch_length", "val_interval", "seed")},
        )
        return overrides  # MONAI Label 0.8.5 ignores it

    def _write_datalist(self, sections: dict[str, Cases]) -> Path:
        # Its name changes with its content: a run on other scans is another run and does not resume this one.
        digest = hashlib.sha256(repr((sections, self.settings.labels)).encode()).hexdigest()[:12]
        path = self.settings.models_dir / "datalists" / f"{self.settings.name}_{digest}.json"
        labels = {str(value): name for value, name in self.settings.labels.items()}
        write_datalist({"labels": labels, **sections}, path, overwrite=True)
        return path


def _shuffled(names: Iterable[str]) -> list[str]:
    """In an order that looks random, and in which each pair of names always stands alike."""
    return sorted(names, key=lambda name: hashlib.sha256(Path(name).name.encode()).digest())
