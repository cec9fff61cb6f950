# SPDX-License-Identifier: Apache-2.0
"""The model in use: always the newest training that came to its end.

A training writes to a folder of its own and marks it as finished last of all, at once. So a training that is killed
never touches the model in use, and every earlier model stays in its folder with its date (``run.json``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from monai.bundle import ConfigParser

from scripts.data import DataError
from scripts.handlers import latest_run

from .settings import Settings


@dataclass(frozen=True)
class Model:
    """Weights, and how they are to be used.

    Attributes:
        weights: file of the state dict of both networks.
        configs: layers of the inference config.
        version: identifies the model: its folder and when its training finished, or ``shipped``.
        trained: when that was, in seconds since 1970; 0 for the shipped one.
    """

    weights: Path
    configs: tuple[Path, ...]
    version: str
    trained: float = 0

    def parser(self, bundle: Path) -> ConfigParser:
        """The inference config of this model."""
        parser = ConfigParser()
        parser.read_config([str(path) for path in self.configs])
        parser.config.update({"bundle_root": str(bundle), "ckpt_path": str(self.weights)})
        return parser

    def labels(self, bundle: Path) -> dict[int, str]:
        """Value to name of the classes that it was trained for."""
        return {int(value): name for value, name in self.parser(bundle).config["labels"].items()}


def newest_model(settings: Settings) -> Model | None:
    """The model in use: of the newest finished training, else the shipped one if it is for the same structures.

    Raises:
        DataError: when the newest one was trained for other structures than the server is started for.
    """
    base = settings.bundle / "configs" / "inference.json"
    shipped = Model(settings.bundle / "models" / "model.pt", (base,), "shipped")
    try:
        folder = Path(latest_run(str(settings.models_dir), settings.name))
    except DataError:
        return shipped if shipped.weights.is_file() and shipped.labels(settings.bundle) == settings.labels else None
    finished = json.loads((folder / "run.json").read_text())["finished"]
    model = Model(
        folder / "model.pt",
        (base, folder / "inference.json"),
        f"{folder.name}, {finished}",
        datetime.fromisoformat(finished).timestamp(),
    )
    if model.labels(settings.bundle) != settings.labels:
        raise DataError(
            f"{folder}: trained for {model.labels(settings.bundle)}, but this server is started for {settings.labels}. "
            "Start it with the same --conf labels, or give the new model a name of its own with --conf name."
        )
    return model
