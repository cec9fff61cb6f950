# SPDX-License-Identifier: Apache-2.0
"""Methods as their JSON files say, so that what is tested is what ships."""

import json
from pathlib import Path
from types import SimpleNamespace

from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

from scripts.losses import PartialDiceCELoss
from scripts.methods import Method

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSES = 3
LOCATOR = ComponentLocator()  # finds every class of MONAI: once is enough


def supervised_loss():
    return PartialDiceCELoss(batch=True, squared_pred=True)


def make_method(name=None, teacher=None, **changes) -> Method:
    """The method of configs/methods/NAME.json, or the default.

    Args:
        name: of the JSON; None: train.json.
        teacher: what stands for the moving average of the networks.
        changes: values of the method by id, ``__`` for ``#``: ``terms__cosine=None``.
    """
    layers = [CONFIGS / "train.json"] + ([] if name is None else [CONFIGS / "methods" / f"{name}.json"])
    merged = {key: value for layer in layers for key, value in json.loads(layer.read_text()).items()}
    wanted = {key: merged[key] for key in ("method", "ramp_length")}
    average = SimpleNamespace(module=teacher)
    parser = ConfigParser({**wanted, "num_classes": CLASSES, "average": average, "supervised_loss": supervised_loss()})
    parser.locator = LOCATOR
    parser["method#warm_up"] = 0.0
    for key, value in changes.items():
        parser["method#" + key.replace("__", "#")] = value
    return parser.get_parsed_content("method")
