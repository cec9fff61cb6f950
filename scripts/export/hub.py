# SPDX-License-Identifier: Apache-2.0
"""A model as a folder for the Hugging Face Hub, and back: a config without code, weights that are only tensors."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.networks.nets
from monai.utils import optional_import
from torch import nn

from .. import networks
from ..config_text import find_config_text
from ..errors import DataError
from ..files import replace_file, save_text
from ..runs.run import Run
from .description import DESCRIBED, PERHAPS

__all__ = ["HUB_CONFIG", "HUB_WEIGHTS", "is_hub_folder", "read_hub", "write_hub"]

HUB_CONFIG = Run("").config_file.name
"""The Hub calls it as a run does."""
HUB_WEIGHTS, HUB_CARD = "model.safetensors", "README.md"
INTENSITY = {
    "scripts.data.NormalizeByModalityd",
    "Compose",
    "NormalizeIntensityd",
    "ScaleIntensityd",
    "ScaleIntensityRanged",
    "ScaleIntensityRangePercentilesd",
}
"""Transforms of intensities that compute, and nothing else."""
logger = logging.getLogger(__name__)

PLAIN_KEY = re.compile(r"[^\W_][\w -]*|_target_|_desc_")


def is_hub_folder(folder: str | os.PathLike) -> bool:
    """Whether a folder is what :func:`write_hub` writes."""
    return all(Path(folder, name).is_file() for name in (HUB_CONFIG, HUB_WEIGHTS))


def write_hub(
    network: nn.Module, description: Mapping[str, Any], folder: str | os.PathLike, run: str | os.PathLike
) -> Path:
    """Write model card, config and weights (ours).

    Args:
        network: a ``DualEnsemble`` with its weights.
        description: of :func:`describe_model`.
        folder: to write to; it is made, or must be empty.
        run: folder of the run that made the weights, for the card; what it lacks is left out there.

    Returns:
        The folder.

    Raises:
        DataError: when the folder holds something else, the config would not be read back, or safetensors is missing.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists already. Name another folder with --hub.")
    if not isinstance(network, networks.DualEnsemble):
        raise DataError("A folder for the Hub holds one model. Name one run.")
    save_file, installed = optional_import("safetensors.torch", name="save_file")
    if not installed:
        raise DataError('safetensors is not here: pip install "dualseg[export]".')
    if problems := list(_problems(description)):
        raise DataError([f"{problem} The model cannot be shared without code." for problem in problems])
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with replace_file(folder / HUB_WEIGHTS) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    save_text(json.dumps(description, indent=2) + "\n", folder / HUB_CONFIG)
    parameters = sum(tensor.numel() for tensor in weights.values())
    save_text(_card(description, folder.resolve().name, Run(run), parameters), folder / HUB_CARD)
    logger.info("Written: %s", folder)
    return folder


def read_hub(folder: str | os.PathLike) -> dict[str, Any]:
    """The config of such a folder, once it is sure that using it runs no code of its author (ours).

    Args:
        folder: with ``config.json`` and ``model.safetensors``.

    Returns:
        Values for configs/inference.json.

    Raises:
        DataError: when it is damaged, lacks something, or names anything but networks and transforms of intensities.
    """
    path = Path(folder, HUB_CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a config ({error}). Download it again.") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: not a config. Download it again.")
    if problems := list(_problems(config)):
        raise DataError([f"{path}: {problem} Use only models from `dualseg export --hub`." for problem in problems])
    return config


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a name that stands twice, two readers may take different ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a config from being data alone."""
    if missing := [key for key in DESCRIBED if key not in config]:
        yield f"{', '.join(missing)} missing."
    if unknown := [key for key in config if key not in (*DESCRIBED, *PERHAPS)]:
        yield f"{', '.join(map(repr, unknown))} is no part of a model's description."
    if (text := find_config_text(config)) is not None:
        yield f"{text!r} is code."
    for key, part in config.items():
        yield from _strange_parts(part, key, _is_network if key == "network_def" else INTENSITY.__contains__)
    network = config.get("network_def")
    if "network_def" in config and not (
        isinstance(network, dict) and network.get("_target_") == "scripts.networks.DualEnsemble"
    ):
        yield "network_def is not a scripts.networks.DualEnsemble."


def _strange_parts(part: Any, where: str, allowed: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if not PLAIN_KEY.fullmatch(key):
                yield f"{where}: the key {key!r} means something to a program."
            if key == "_target_" and (where.partition("#")[0] in ("labels", "spacing", *PERHAPS) or not allowed(value)):
                yield f"{where}: {value!r} is no network, or no transform of intensities."
            yield from _strange_parts(value, f"{where}#{key}", allowed)
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from _strange_parts(value, f"{where}#{number}", allowed)


def _is_network(name: Any) -> bool:
    """Whether a ``_target_`` names a network of this package or of MONAI."""
    if not isinstance(name, str):
        return False
    if name.startswith("scripts.networks."):
        return name.removeprefix("scripts.networks.") in networks.__all__
    found = getattr(monai.networks.nets, name, None)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _lengths(size: Sequence[float | None]) -> str:
    return " x ".join(f"{length:g} mm" if length else "all" for length in size)


def _card(description: Mapping[str, Any], name: str, run: Run, parameters: int) -> str:
    classes = [str(one) for _, one in sorted(description["labels"].items(), key=lambda item: int(item[0]))]
    grid = " x ".join(f"{length:g}" for length in description["spacing"]) + " mm"
    if "field_of_view" in description:
        grid += f" (the longer side of a slice counts as {description['field_of_view']:g} mm)"
    if "center_crop" in description:
        grid += f", of which the middle is looked at ({_lengths(description['center_crop'])})"
    lines = [
        *("---", "library_name: monai", "pipeline_tag: image-segmentation"),
        *("tags: [medical, segmentation, semi-supervised, dualseg]", "---", "", f"# {name}", ""),
        f"Segments {', '.join(classes[1:])}. Two networks with {parameters:,} weights together; their mean predicts.",
        *(
            "",
            "## Use",
            "",
            "```bash",
            'pip install "dualseg[all,export]"',
            "dualseg predict IN OUT --model FOLDER",
            "```",
        ),
        *(
            "",
            f"FOLDER is this one. `{HUB_CONFIG}` holds no code and `{HUB_WEIGHTS}` only tensors.",
            "",
            "## Input",
            "",
        ),
        f"- {description['in_channels']} channel(s), any grid: resampled to {grid}, oriented to RAS",
        f"- intensities: `{json.dumps(description['intensity'])}`",
        f"- windows of {' x '.join(map(str, description['patch_size']))} voxels, overlap {description['overlap']:g}",
        *("", "## Training", "", *(_training(run) or ["Not on record."])),
    ]
    if run.table_file.is_file():
        lines += ["", "## Scores", "", run.table_file.read_text(encoding="utf-8").strip()]
    return "\n".join([*lines, "", "## Limits", "", "Not a medical device. Look at every result before you use it.", ""])


def _training(run: Run) -> list[str]:
    found = []
    if run.config_file.is_file():
        config = run.config()
        keys = {"method_name": "method", "dataset_name": "data", "seed": "seed", "base_channels": "base width"}
        found += [f"- {name}: {config[key]}" for key, name in keys.items() if isinstance(config.get(key), str | int)]
    if run.choice_file.is_file():
        choice = run.choice()
        found.append(f"- weights: epoch {choice['epoch']} of {choice['epochs']}, {choice['chosen']}")
    return found
