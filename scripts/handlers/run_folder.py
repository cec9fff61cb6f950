# SPDX-License-Identifier: Apache-2.0
"""One folder a run: an unfinished run continues in its folder, a finished one is kept."""

from __future__ import annotations

import json
import logging
import platform
import re
import resource
import shutil
import sys
import tempfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..data import DataError
from .atomic import replace_file
from .initial_weights import START_FILE

__all__ = ["finish_run", "latest_run", "run_folder"]

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
INFERENCE_FILE = "inference.json"
FINISHED_FILE = "run.json"


def run_folder(runs_dir: str, name: str) -> str:
    """Choose the folder of the run that the config under evaluation describes; create it with that config (ours).

    Made for an expression in a bundle's config. The folder is ``runs_dir/name``, or ``name_2``, ``name_3`` ...: the
    first one that holds an unfinished run of exactly this config (which is then resumed), or that does not exist yet.
    So a finished run and an unfinished one of another config are never overwritten. Processes that train together
    choose the same folder.

    Args:
        runs_dir: folder of all runs.
        name: what to call this one.

    Returns:
        Path of the folder, which holds ``config.json``: the merged config with all overrides.

    Raises:
        DataError: when the folder cannot be written, or a switch was given as ``true`` instead of ``True``.
    """
    config = {k: v for k, v in _enclosing_parser().get().items() if k != ConfigParser.meta_key}
    _refuse_lower_case_switches(config)
    number = 1
    while True:
        folder = Path(runs_dir) / (name if number == 1 else f"{name}_{number}")
        if not folder.exists() and _create(folder, config):
            return str(folder)
        if _is_same_unfinished_run(folder, config):
            return str(folder)
        number += 1


def latest_run(runs_dir: str, name: str, option: str = "--ckpt_path", **settings: Any) -> str:
    """Folder of the newest finished run of this name in ``runs_dir`` (ours).

    Args:
        runs_dir: folder of all runs.
        name: of the run; ``name_2``, ``name_3`` ... are runs of it, too.
        option: what to give instead of a run, for the error.
        settings: values that the run's config has to have, such as its ``datalist_name``.

    Raises:
        DataError: when there is none; it says how to train one, or to name other weights with ``option``.
    """
    own = re.compile(re.escape(name) + r"(_\d+)?")
    finished = [path for path in Path(runs_dir).glob(f"*/{FINISHED_FILE}") if own.fullmatch(path.parent.name)]
    if settings:
        finished = [path for path in finished if settings.items() <= _config(path.parent).items()]
    if not finished:
        wanted = "".join(f" with {key} {value}" for key, value in settings.items())
        raise DataError(f"No finished run {Path(runs_dir) / name}{wanted}: train it first, or give {option}.")
    return str(max(finished, key=lambda path: path.stat().st_mtime).parent)


def finish_run(folder: str) -> None:
    """Mark the run in ``folder`` as finished: the same command starts a new one from now on. First rank only.

    Made for an expression in a bundle's config. ``run.json`` says when, with which versions and hardware,
    and from which weights the run started; ``inference.json``, layered on the bundle's, is all that inference needs
    to use the run's model.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    parser = _enclosing_parser()
    with replace_file(Path(folder) / INFERENCE_FILE) as path:
        path.write_text(json.dumps(_inference_override(parser, Path(folder)), indent=2) + "\n")
    record = {
        "peak_memory_gib": round(_peak_memory_gib(), 2),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "initial_weights": _initial_weights(Path(folder)),
        "versions": {name: version(name) for name in ("monai", "torch", "numpy", "pytorch-ignite")},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
    }
    with replace_file(Path(folder) / FINISHED_FILE) as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    logger.info(
        "To segment scans with this model: python -m monai.bundle run --config_file "
        "\"['configs/inference.json','%s']\" --dataset_dir IN --output_dir OUT",
        Path(folder) / INFERENCE_FILE,
    )


def _initial_weights(folder: Path) -> str | None:
    path = folder / START_FILE
    return json.loads(path.read_text())["path"] if path.exists() else None


def _refuse_lower_case_switches(config: dict[str, Any]) -> None:
    """On MONAI's command line only Python's spelling is a bool; the text "false" would switch on."""
    for name, value in config.items():
        if value in ("true", "false"):
            raise DataError(f"{name} is the text '{value}', not a switch: write --{name} {value.capitalize()}.")


def _peak_memory_gib() -> float:
    """Most memory this process held: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB elsewhere


def _enclosing_parser() -> ConfigParser:
    # MONAI evaluates a config's expressions without access to the config itself; the parser is found among the callers.
    frame = sys._getframe(1)
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back
    raise RuntimeError("This function is for expressions in a bundle's config: no ConfigParser is evaluating one now.")


def _inference_override(parser: ConfigParser, folder: Path) -> dict[str, Any]:
    """The networks of a run with what they refer to, the grid they work on, and where their weights are."""
    network = {**parser["network_def"], "_target_": "scripts.networks.DualEnsemble"}
    references = re.findall(r"@(\w+)", json.dumps([network, parser["intensity"]]))
    names = {"labels", "in_channels", "spacing", "patch_size", "overlap", *references} - {"num_classes"}
    return {
        "_desc_": f"Layered on configs/inference.json: the model of {folder.name}",
        "ckpt_path": str((folder / "model.pt").resolve()),
        **{name: parser.get_parsed_content(name) for name in sorted(names)},
        "intensity": parser["intensity"],
        "network_def": network,
    }


def _create(folder: Path, config: dict) -> bool:
    """Make the folder with its config in one step; False if another process was first."""
    made: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        made.chmod(0o755)
        (made / CONFIG_FILE).write_text(json.dumps(config, indent=2, default=str) + "\n")
        made.rename(folder)
    except OSError as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        if folder.exists():
            return False
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}). Make room, or name a folder of yours with --runs_dir."
        ) from error
    return True


def _is_same_unfinished_run(folder: Path, config: dict) -> bool:
    if (folder / FINISHED_FILE).exists() or not (folder / CONFIG_FILE).is_file():
        return False
    return _config(folder) == json.loads(json.dumps(config, default=str))


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG_FILE).read_text())
