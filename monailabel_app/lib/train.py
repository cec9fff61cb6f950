# SPDX-License-Identifier: Apache-2.0
"""Training on the labelled scans of a datastore and on those that have no label yet."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monai.bundle import ConfigParser
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from scripts.data import inspect_data, write_datalist
from scripts.runs import Run

from .labels import IGNORED, scribble_files
from .models import all_models, drop_old_models, model_in_use, settle_leftovers, settle_run, settle_stopped, use_model
from .options import read_options
from .progress import training_stats
from .settings import Settings

logger = logging.getLogger(__name__)

Cases = list[dict[str, Any]]

TRAIN = "no change: train"
"""What a client gives as ``use_model`` to train; anything else is a model to put in use instead."""

NO_TRACKING, MLFLOW = "None", "mlflow"
"""What a client gives as ``tracking``, as to MONAI Label's own apps."""


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
        self.default_method = self.bundle_config.config["method_name"]
        self._options: dict[str, Any] = {}
        self._unlabeled: Cases = []
        self._left_out: dict[str, str] = {}
        self._scribbles: set[str] = set()

    def config(self) -> dict[str, Any]:
        """Options of a training with their defaults, as clients show them; of a list the first is the default."""
        configs = self.settings.bundle / "configs"
        # one that starts from a run of the command line's own naming has none here; `pretrained` does that
        recipes = [path for path in sorted(configs.glob("recipes/*.json")) if "initial_weights" not in _read(path)]
        return {
            "device": device_list(),
            "recipe": [path.stem for path in recipes],
            "method": [self.default_method, *self.methods()],
            "max_unlabeled": -1,  # all
            "val_split": 0.2,
            "pretrained": True,
            "max_epochs": 0,  # as many as the recipe says; likewise the next
            "epoch_length": 0,
            "seed": 0,
            "multi_gpu": True,
            "gpus": "all",
            "keep_models": 10,  # 0: all
            "tracking": [NO_TRACKING, MLFLOW],
            "tracking_uri": "",
            "tracking_experiment_name": "",
            "use_model": [TRAIN, *(model.name for model in all_models(self.settings))],
        }

    def methods(self) -> dict[str, str]:
        """What each method is, in a line. A pre-training is none: it leaves no model that segments."""
        paths = sorted((self.settings.bundle / "configs" / "methods").glob("*.json"))
        return {path.stem: _read(path)["_desc_"] for path in paths if not path.stem.endswith("_pretraining")}

    def info(self) -> dict[str, Any]:
        """As in MONAI Label, with what each method is."""
        return {**super().info(), "methods": self.methods()}

    def stats(self) -> dict[str, Any]:
        """How far the newest training is, for the client's progress bar."""
        return training_stats(self.settings)

    def chosen_model(self, request: dict[str, Any]) -> str | None:
        """Name of the model that a request puts in use; None when it asks for a training."""
        name = read_options(request, self.config())["use_model"]
        return None if name == TRAIN else name

    def refuse(self, request: dict[str, Any], datastore: Datastore) -> None:
        """Raise HTTPException 400 when an option makes no sense or there is no label to learn from."""
        if self.chosen_model(request) is not None:
            return
        if not datastore.get_labeled_images():
            raise HTTPException(
                400,
                f"Too few labels: none of the {len(datastore.list_images())} scans has a final label. Segment "
                f"{', '.join(self.settings.structures)} in one scan or more, submit each label, then train.",
            )

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, and put the result in use if it is no worse than what is in use (see :mod:`lib.models.verdict`).

        Args:
            request: any of the options of :meth:`config`.
            datastore: whose scans to train on.

        Returns:
            The statistics of the training.

        Raises:
            HTTPException: 400 when there is no label, or an option makes no sense.
            RuntimeError: when the training did not come to its end; the model in use is the same as before.
        """
        self.refuse(request, datastore)
        if (name := self.chosen_model(request)) is not None:
            self.put_in_use(name)
            return self.stats()
        options = read_options(request, self.config())
        device = torch.device(name_to_device(options["device"]))
        layers = self._layers(options)
        self.bundle_config_path = [str(layer) for layer in layers]
        self.bundle_config = ConfigParser()
        self.bundle_config.read_config(self.bundle_config_path)
        for name in ("max_epochs", "epoch_length"):
            options[name] = options[name] or self.bundle_config.get_parsed_content(name)
        # validated at least once, or the scans kept back for it would be wasted
        options["val_interval"] = min(self.bundle_config.get_parsed_content("val_interval"), options["max_epochs"])
        self._options = options
        self._unlabeled, self._left_out = self._fetch_unlabeled(datastore)
        self._scribbles = scribble_files(datastore)
        # MONAI Label's own tracking expects other names in a config than the bundle has
        request = {name: value for name, value in options.items() if not name.startswith("tracking")}
        request["model"] = self.settings.name
        training, validation = self._partition_datalist(self._fetch_datalist(request, datastore), request)
        settle_leftovers(self.settings, self._write_datalist(self._sections(training, validation)).name, device)
        before = _finished(self.settings)
        super().__call__(request, datastore)
        new = _finished(self.settings) - before
        if not new:
            raise RuntimeError("The training did not come to its end; the log above says why.")
        settle_run(self.settings, Run(self.settings.models_dir / new.pop()), device)
        drop_old_models(self.settings, options["keep_models"])
        return self.stats()

    def put_in_use(self, name: str) -> str:
        """Put a model in use, e.g. an earlier one again; a sentence for the client."""
        model = use_model(self.settings, name)
        logger.info("The model in use is now %s", model.version)
        return f"The model in use is now {model.version}."

    def keep_stopped(self, request: dict[str, Any]) -> str:
        """After a training was stopped: keep its best model so far, by the same rule; a sentence for the client."""
        stopped = [run for run in Run.find(self.settings.models_dir, self.settings.name) if not run.is_finished]
        device = torch.device(name_to_device(read_options(request, self.config())["device"]))
        verdict = settle_stopped(self.settings, stopped[0], device) if stopped else None
        if verdict is None:
            return "Stopped before there was a new model. The same request starts or continues the training."
        sentence = f"Stopped. Of epoch {verdict.epoch}: {verdict.sentence(stopped[0].folder.name)}"
        return sentence if verdict.taken else f"{sentence} The same request continues the training."

    def _layers(self, options: dict[str, Any]) -> list[Path]:
        configs = self.settings.bundle / "configs"
        layers = [configs / "train.json", self.settings.dataset, configs / "recipes" / f"{options['recipe']}.json"]
        if options["method"] != self.default_method:
            layers.append(configs / "methods" / f"{options['method']}.json")
        return layers

    def _fetch_unlabeled(self, datastore: Datastore) -> tuple[Cases, dict[str, str]]:
        """The unlabelled scans to train on; of those that cannot be read, by file, what is wrong and what to do."""
        names = _shuffled(datastore.get_unlabeled_images())
        wanted = self._options["max_unlabeled"]
        cases = [{"image": datastore.get_image_uri(name)} for name in (names if wanted < 0 else names[:wanted])]
        # after a labelled scan, which says how many channels there are
        listed = [{"image": datastore.get_image_uri(datastore.get_labeled_images()[0])}, *cases]
        report = inspect_data({"labels": self.settings.labels, "unlabeled": listed}, progress=False)
        left_out = {case.image: " ".join(case.errors) for case in report.cases[1:] if case.errors}
        for problem in left_out.values():
            logger.warning("Left out of the training: %s", problem)
        return [case for case in cases if case["image"] not in left_out], left_out

    def _partition_datalist(self, datalist: Cases, request: dict[str, Any], shuffle: bool = False) -> tuple:
        """Take validation scans out of the labelled ones; at least one stays to train on.

        A scan that a training has learned from is not one of them: on the validation scans the new model is compared
        with the one in use, which must not know them either. Nor is one of which only scribbles are known. Among the
        others, names alone decide, so that most stay on
        their side when labels are added.
        """
        count = min(round(request["val_split"] * len(datalist)), len(datalist) - 1)
        learned = _learned_from(self.settings)
        ordered = sorted(datalist, key=lambda case: _digest(case["image"]))
        whole = [case for case in ordered if case["label"] not in self._scribbles]
        validation = [case for case in whole if Path(case["image"]).name not in learned][:count]
        return [case for case in ordered if case not in validation], validation

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list) -> None:
        model = model_in_use(self.settings)
        if pretrained and model is not None:
            start = {"_target_": "scripts.runs.InitialWeights", "path": str(model.weights), "required": False}
            start |= {"network": "@network", "average": "@average", "output_dir": "@output_dir"}
            train_handlers.insert(0, start)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        training = overrides[self.const.key_train_dataset_data()]
        sections = self._sections(training, overrides[self.const.key_validate_dataset_data()])
        logger.info("Scans: %s", ", ".join(f"{len(cases)} {name}" for name, cases in sections.items()))
        datalist = self._write_datalist(sections)
        overrides.update(
            dataset_dir=str(datalist.parent),
            datalist_name=datalist.name,
            dataset_name="studies",
            labels={str(value): name for value, name in self.settings.labels.items()},
            runs_dir=str(self.settings.models_dir),
            run_name=self.settings.name,
            **{name: self._options[name] for name in ("max_epochs", "epoch_length", "val_interval", "seed")},
        )
        if self._options["tracking"] == MLFLOW:
            overrides |= {
                "mlflow": True,
                "mlflow_experiment": self._options["tracking_experiment_name"] or "monai_label",
            }
            if self._options["tracking_uri"]:
                overrides["mlflow_uri"] = self._options["tracking_uri"]
        return overrides  # MONAI Label 0.8.5 ignores it

    def _sections(self, training: Cases, validation: Cases) -> dict[str, Cases]:
        return {"training": training, "unlabeled": self._unlabeled, "validation": validation}

    def _write_datalist(self, sections: dict[str, Cases]) -> Path:
        # Its name changes with its content: a run on other scans or labels is another run and does not resume this one.
        digest = hashlib.sha256(repr((sections, self.settings.labels)).encode())
        for case in sections["training"] + sections["validation"]:
            digest.update(Path(case["label"]).read_bytes())
        path = self.settings.models_dir / "datalists" / f"{self.settings.name}_{digest.hexdigest()[:12]}.json"
        labels = {str(value): name for value, name in self.settings.labels.items()}
        content = {"labels": labels, **sections}
        if any(case["label"] in self._scribbles for case in sections["training"]):
            content["ignore"] = IGNORED
        if self._left_out:
            content["left_out"] = self._left_out
        write_datalist(content, path, overwrite=True)
        return path


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _finished(settings: Settings) -> set[str]:
    """Names of the finished trainings."""
    return {run.folder.name for run in Run.find(settings.models_dir, settings.name) if run.is_finished}


def _learned_from(settings: Settings) -> set[str]:
    """File names of all scans that a training of this model has learned from with their label."""
    names = set()
    for run in Run.find(settings.models_dir, settings.name):
        config = run.config()
        datalist = _read(Path(config["dataset_dir"], config["datalist_name"]))
        names |= {Path(case["image"]).name for case in datalist["training"]}
    return names


def _shuffled(names: Iterable[str]) -> list[str]:
    """In an order that looks random, and in which each pair of names always stands alike."""
    return sorted(names, key=_digest)


def _digest(name: str) -> bytes:
    return hashlib.sha256(Path(name).name.encode()).digest()
