# SPDX-License-Identifier: Apache-2.0
"""A mistyped key of a config is an error: MONAI takes it for a new key, and trains without it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any

from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from ..bundle_files import CONFIGS
from ..errors import DataError
from .enclosing import enclosing_parser

__all__ = ["refuse_unknown_keys"]

# What MONAI itself puts into a config, or looks for in it.
MONAI_KEYS = {"save_execute_config", "displayable_configs", *DEFAULT_MLFLOW_SETTINGS["configs"]}
REFERENCE = re.compile(r"@(\w+)")


def refuse_unknown_keys() -> None:
    """Refuse the config under evaluation when a top-level key in it has no use (ours).

    Known are the top-level keys of the bundle's own configs, those that anything in the merged config refers to, and
    those that begin with ``_``: comments, and what a macro (``%_key``) copies, of which MONAI leaves no trace.

    Raises:
        DataError: when there are others; it names the known key that looks most like each.
    """
    config = enclosing_parser().get()
    used = {name for text in _texts(config) for name in REFERENCE.findall(text)}
    known = _keys_of_bundle() | MONAI_KEYS
    unknown = [key for key in config if not key.startswith("_") and key not in known | used]
    if unknown:
        raise DataError([_problem(key, known) for key in unknown])


def _problem(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    guess = f"did you mean {near[0]}?" if near else f"remove it, refer to it as @{key}, or begin its name with _."
    return f"{key}: the config has no such key, {guess}"


def _keys_of_bundle() -> set[str]:
    """Top-level keys of every config of the bundle; of ``a#b`` and ``+a#b`` it is ``a``."""
    files = {*CONFIGS.glob("*.json"), *CONFIGS.glob("*/*.json")} - {CONFIGS / "metadata.json"}
    return {key.lstrip("+").split("#")[0] for file in files for key in json.loads(file.read_text(encoding="utf-8"))}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
