# SPDX-License-Identifier: Apache-2.0
"""What a client may ask for: every option of its own kind, and nothing that a config would evaluate."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import torch
from fastapi import HTTPException

from scripts.config_text import find_config_text

FROM_MONAI_LABEL = frozenset({"model", "bundle_path", "client_id", "local_rank"})
"""Keys of a request that are not options: MONAI Label or its client library adds them."""

LEAST = {"max_unlabeled": -1, "max_epochs": 0, "epoch_length": 0, "seed": 0, "keep_models": 0}
PATTERNS = {
    "device": (re.compile(r"(cpu|cuda|mps)(:\d+)?"), "cpu, cuda or cuda:1"),
    "gpus": (re.compile(r"all|\d+(,\d+)*"), "all, or numbers such as 0,1"),
    "tracking_uri": (re.compile(r"(https?://\S+)?"), "the address of an MLflow server, http://..., or nothing"),
    "tracking_experiment_name": (re.compile(r"[\w .-]*"), "letters, digits, spaces, '_', '-' and '.'"),
}


def read_options(request: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a training, each checked (ours).

    Args:
        request: what the client sent. An option may be a list, as clients send back the list they were shown: its first
            entry counts.
        choices: name to default of every option; a list holds what may be chosen, the default first.

    Returns:
        Name to value of every option.

    Raises:
        HTTPException: 400 when a key is no option, a value is of another kind or out of its range, or a text is one
            that a MONAI config would evaluate.
    """
    if (text := find_config_text(dict(request))) is not None:
        raise HTTPException(400, f"{text!r}: a text that starts with $, @ or % is code in a config, and refused.")
    for key in request:
        if key not in choices and key not in FROM_MONAI_LABEL:
            near = difflib.get_close_matches(key, choices, n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise HTTPException(400, f"{key}: no option of a training.{guess} There are {', '.join(choices)}.")
    return {name: _checked(name, request.get(name, default), default) for name, default in choices.items()}


def read_infer_options(request: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, str]:
    """Check what a client asks of a segmentation (ours).

    Args:
        request: what the client sent, with keys of MONAI Label among it, which are left alone.
        choices: name to default of every option, as for :func:`read_options`.

    Returns:
        ``version``, the name of the model to use, which need not exist, and ``uncertainty``, one of its choices.

    Raises:
        HTTPException: 400 when ``device``, ``version`` or ``uncertainty`` is nothing of its kind.
    """
    if "device" in request:
        _checked("device", request["device"], choices["device"])
    version = request.get("version", choices["version"])
    version = version[0] if isinstance(version, list) and version else version
    if not isinstance(version, str):
        raise HTTPException(400, f"version {version!r}: the name of a model, or {choices['version'][0]!r}.")
    wanted = _checked("uncertainty", request.get("uncertainty", choices["uncertainty"]), choices["uncertainty"])
    return {"version": version, "uncertainty": wanted}


def _checked(name: str, value: Any, default: Any) -> Any:
    if isinstance(value, list) and value:
        value = value[0]
    if name == "device" and value in default:  # clients send back the names of GPUs that they were shown
        return value
    if name in PATTERNS:
        pattern, example = PATTERNS[name]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise HTTPException(400, f"{name} {value!r}: write {example}.")
        if name in ("device", "gpus"):
            _refuse_absent_gpu(name, value)
        return value
    if isinstance(default, list):
        if value not in default:
            raise HTTPException(400, f"{name} {value!r}: choose one of {', '.join(map(str, default))}.")
        return value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise HTTPException(400, f"{name} {value!r}: either true or false.")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise HTTPException(400, f"{name} {value!r}: a number.")
    if isinstance(default, float):
        if not 0 <= value < 1:
            raise HTTPException(400, f"{name} {value}: a fraction of the labels, from 0 to below 1.")
        return float(value)
    if value != int(value) or value < LEAST[name]:
        raise HTTPException(400, f"{name} {value}: a whole number, {LEAST[name]} or more.")
    return int(value)


def _refuse_absent_gpu(name: str, value: str) -> None:
    """Without any GPU, MONAI Label takes the CPU; with some, one that is not there is an error."""
    count = torch.cuda.device_count()
    absent = [number for number in re.findall(r"\d+", value) if int(number) >= count]
    if count and absent:
        raise HTTPException(400, f"{name} {value!r}: there is no GPU {absent[0]}, the first is 0 of {count}.")
