# SPDX-License-Identifier: Apache-2.0
"""What the app is told when it is started: ``monailabel start_server ... --conf KEY VALUE``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from monailabel.datastore.utils.colors import GENERIC_ANATOMY_COLORS

from scripts.config_text import find_config_text
from scripts.data import DataError

OWN_KEYS = ("name", "labels", "dataset")
MONAI_LABEL_KEYS = ("server_mode", "preload")


@dataclass(frozen=True)
class Settings:
    """The choices of a server.

    Attributes:
        bundle: the bundle's folder.
        models_dir: where models are kept, a folder for each training.
        name: of the model, as clients show it and as its folders are called.
        labels: value to name, background included.
        dataset: config of the data set, layered on train.json.
    """

    bundle: Path
    models_dir: Path
    name: str
    labels: dict[int, str]
    dataset: Path

    @classmethod
    def from_conf(cls, bundle: Path, app_dir: Path, conf: Mapping[str, str]) -> Settings:
        """Read the options.

        Args:
            bundle: the bundle's folder.
            app_dir: the app's folder.
            conf: ``name`` (default ``dualseg``); ``labels``, names of the structures with values 1, 2, ... divided by
                commas, or a JSON file with ``labels`` such as a datalist (default: those of ``dataset`` if it lists
                them, else of the bundle's metadata); ``dataset``, a config in configs/datasets or a JSON file (default
                ``folder``, which derives grid and intensities from the scans).

        Raises:
            DataError: when an option makes no sense.
        """
        for key in conf:
            if key not in OWN_KEYS + MONAI_LABEL_KEYS:
                raise DataError(f"--conf {key}: no such option. Choose from {', '.join(OWN_KEYS)}.")
        name = conf.get("name", "dualseg")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise DataError(f"--conf name {name!r}: use letters, digits, '_', '-' and '.'; it becomes a folder's name.")
        dataset = _find_dataset(bundle, conf.get("dataset", "folder"))
        return cls(bundle, app_dir / "model", name, _find_labels(bundle, dataset, conf.get("labels")), dataset)

    @property
    def structures(self) -> dict[str, int]:
        """Name to value of all classes but the background."""
        return {name: value for value, name in self.labels.items() if value}

    @property
    def colors(self) -> dict[str, list[int]]:
        """Red, green and blue of each structure: what 3D Slicer gives anatomy of that name, else one of ten."""
        palette = [[round(255 * part) for part in color] for color in colormaps["tab10"].colors]
        own = {name: palette[(value - 1) % len(palette)] for name, value in self.structures.items()}
        return {name: list(GENERIC_ANATOMY_COLORS.get(name.lower(), color)) for name, color in own.items()}


def _find_dataset(bundle: Path, name: str) -> Path:
    folder = bundle / "configs" / "datasets"
    found = Path(name) if name.endswith(".json") else folder / f"{name}.json"
    if not found.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
        raise DataError(f"--conf dataset {name}: no such config. Name a JSON file, or one of {known}.")
    return found.resolve()


def _find_labels(bundle: Path, dataset: Path, given: str | None) -> dict[int, str]:
    if given is None:
        listed = json.loads(dataset.read_text()).get("labels")
        if not isinstance(listed, dict):
            metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
            listed = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    elif given.endswith(".json"):
        listed = _read_labels(Path(given))
    else:
        names = [name.strip() for name in given.split(",")]
        listed = dict(enumerate(names if names[0].lower() == "background" else ["background", *names]))
    labels = {int(value): name for value, name in listed.items()}
    names = list(labels.values())
    if len(labels) < 2 or sorted(labels) != list(range(len(labels))) or len(set(names)) < len(names) or "" in names:
        raise DataError(
            f"--conf labels {given}: gives {labels}. Name each structure once, e.g. --conf labels 'liver,tumour'."
        )
    if (code := find_config_text(names)) is not None:
        raise DataError(f"--conf labels: {code!r} would be code in a config. Give the structure another name.")
    return dict(sorted(labels.items()))


def _read_labels(path: Path) -> dict:
    try:
        return json.loads(path.read_text())["labels"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f'--conf labels {path}: no JSON file with "labels" ({error!r}). Name a datalist.') from error
