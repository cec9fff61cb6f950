# SPDX-License-Identifier: Apache-2.0
"""What is written down about a model when its training ends, in whichever way."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..config_text import find_config_text
from ..errors import DataError
from ..hardware import device_name, peak_memory_gib

__all__ = ["inference_override", "run_record"]


def run_record(initial_weights: str | None) -> dict[str, Any]:
    """When a run ended, with which command, versions and hardware (ours).

    Args:
        initial_weights: path of the weights that it started from; None when they were random.
    """
    return {
        "peak_memory_gib": round(peak_memory_gib(), 2),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "initial_weights": initial_weights,
        "versions": {name: version(name) for name in ("monai", "torch", "numpy", "pytorch-ignite")},
        "python": platform.python_version(),
        "device": device_name(),
    }


def inference_override(parser: ConfigParser, model: Path, largest: Sequence[int] = ()) -> dict[str, Any]:
    """The networks of a run with what they refer to, the grid they work on, and where their weights are (ours).

    Args:
        parser: of the run's config.
        model: the weights, in the run's folder.
        largest: classes of which only the largest part is kept.

    Raises:
        DataError: when a name would be code in a config.
    """
    network = {**parser["network_def"], "_target_": "scripts.networks.DualEnsemble"}
    references = re.findall(r"@(\w+)", json.dumps([network, parser["intensity"]]))
    names = {"labels", "in_channels", "spacing", "patch_size", "overlap", *references} - {"num_classes"}
    if parser.get_parsed_content("label_values", default=None) is not None:
        names.add("label_values")  # predictions hold what the user's label files hold
    perhaps = ("field_of_view", "center_crop", "regions")
    names |= {key for key in perhaps if parser.get_parsed_content(key, default=None)}
    values = {name: parser.get_parsed_content(name) for name in sorted(names)}
    if (text := find_config_text(values)) is not None:
        raise DataError(
            f"{model.parent}: {text!r} would be code in inference.json. Give the class or channel another "
            "name, then start again: the training itself is kept."
        )
    return {
        "_desc_": f"Layered on configs/inference.json: the model of {model.parent.name}",
        "ckpt_path": str(model.resolve()),
        **values,
        **({"largest_component": list(largest)} if largest else {}),
        "intensity": parser["intensity"],
        "network_def": network,
    }
