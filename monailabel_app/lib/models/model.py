# SPDX-License-Identifier: Apache-2.0
"""The models that there are, and the one in use.

A training writes to a folder of its own and marks it as finished last of all, at once. So a training that is killed
never touches the model in use, and every earlier model stays in its folder with its date (its record).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from monai.bundle import ConfigParser

from scripts.data import DataError
from scripts.runs import Run

from ..settings import Settings
from .ledger import change_ledger, read_ledger

logger = logging.getLogger(__name__)

SHIPPED = "shipped"
"""Name of the bundle's own model."""


@dataclass(frozen=True)
class Model:
    """Weights, and how they are to be used.

    Attributes:
        name: of its run's folder, or ``shipped``.
        weights: file of the state dict of both networks.
        configs: layers of the inference config.
        version: identifies the model: its folder and when its training finished, or ``shipped``.
        trained: when that was, in seconds since 1970; 0 for the shipped one.
    """

    name: str
    weights: Path
    configs: tuple[Path, ...]
    version: str
    trained: float = 0

    def parser(self, bundle: Path) -> ConfigParser:
        """The inference config of this model; all parts of a structure are shown: the annotator sees and decides."""
        parser = ConfigParser()
        parser.read_config([str(path) for path in self.configs])
        parser.config.update({"bundle_root": str(bundle), "ckpt_path": str(self.weights), "largest_component": []})
        return parser

    def labels(self, bundle: Path) -> dict[int, str]:
        """Value to name of the classes that it was trained for."""
        return {int(value): name for value, name in self.parser(bundle).config["labels"].items()}


def model_of_run(settings: Settings, run: Run) -> Model:
    """The model of a run that is finished, or of which the model so far was saved."""
    base = settings.bundle / "configs" / "inference.json"
    finished = run.record()["finished"] if run.is_finished else "unfinished"
    trained = datetime.fromisoformat(finished).timestamp() if run.is_finished else 0
    return Model(run.folder.name, run.model, (base, run.inference_file), f"{run.folder.name}, {finished}", trained)


def all_models(settings: Settings) -> list[Model]:
    """Those that can be in use: of the finished trainings, the newest first, then the shipped one if it fits."""
    runs = [run for run in Run.find(settings.models_dir, settings.name) if run.is_finished and run.model.exists()]
    models = [model_of_run(settings, run) for run in runs]
    models.sort(key=lambda model: (model.trained, model.weights.stat().st_mtime), reverse=True)
    base = settings.bundle / "configs" / "inference.json"
    shipped = Model(SHIPPED, settings.bundle / "models" / "model.pt", (base,), SHIPPED)
    if shipped.weights.is_file() and shipped.labels(settings.bundle) == settings.labels:
        models.append(shipped)
    return models


def model_in_use(settings: Settings, other_than: str | None = None) -> Model | None:
    """The model that was taken into use or chosen last; without any decision, the newest.

    Args:
        settings: of the server.
        other_than: name of a model to leave out: the one that is to be compared.

    Raises:
        DataError: when it was trained for other structures than the server is started for.
    """
    models = {model.name: model for model in all_models(settings) if model.name != other_than}
    ledger = read_ledger(settings)
    model = models.get(ledger["in_use"])
    if model is None:
        if ledger["in_use"] not in (None, other_than):
            logger.warning(
                "The model in use, %s, is gone: the newest one is used that was not refused", ledger["in_use"]
            )
        refused = {name for name, verdict in ledger["verdicts"].items() if not verdict["taken"]}
        model = next((one for name, one in models.items() if name not in refused), None)
    if model is not None and model.labels(settings.bundle) != settings.labels:
        raise DataError(
            f"{model.weights.parent}: trained for {model.labels(settings.bundle)}, but this server is started for "
            f"{settings.labels}. Start it with the same --conf labels, or give the new model a name of its own with "
            "--conf name."
        )
    return model


def find_model(settings: Settings, name: str) -> Model:
    """The model of this name.

    Raises:
        DataError: when there is none; it names those that there are.
    """
    models = {model.name: model for model in all_models(settings)}
    if name not in models:
        raise DataError(f"No model {name!r}. There are: {', '.join(models) or 'none yet'}.")
    return models[name]


def use_model(settings: Settings, name: str) -> Model:
    """Put a model in use, e.g. an earlier one again.

    Raises:
        DataError: when there is none of this name.
    """
    model = find_model(settings, name)
    with change_ledger(settings) as ledger:
        ledger["in_use"] = model.name
    return model


def drop_old_models(settings: Settings, keep: int) -> list[str]:
    """Delete the weights of old trainings, never those of the model in use; configs, logs and datalists stay (ours).

    A training that was cut off counts as one: its checkpoint goes, so that it cannot be continued any more.

    Args:
        settings: of the server.
        keep: how many of the newest to keep; 0: all.

    Returns:
        The names of those that were deleted.
    """
    used = model_in_use(settings)
    runs = [run for run in Run.find(settings.models_dir, settings.name) if run.model.exists() or run.can_resume]
    dropped = [run for run in runs[keep:] if used is None or run.folder.name != used.name] if keep else []
    for run in dropped:
        run.drop_weights()
    names = [run.folder.name for run in dropped]
    if names:
        logger.info("Old trainings deleted, of which keep_models keeps %d: %s", keep, ", ".join(names))
    return names
