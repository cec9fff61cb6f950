# SPDX-License-Identifier: Apache-2.0
"""What a model is, without a line of code: the part of a config that inference needs, all references resolved."""

from __future__ import annotations

import json
from typing import Any

from monai.bundle import ConfigParser

from ..config_text import find_config_text
from ..errors import DataError
from ..runs.enclosing import enclosing_parser

__all__ = ["DESCRIBED", "PERHAPS", "describe_model"]

DESCRIBED = ("labels", "in_channels", "spacing", "patch_size", "overlap", "intensity", "network_def")
"""Keys of configs/inference.json that make a model what it is."""
PERHAPS = ("regions", "field_of_view", "center_crop")
"""Those that not every model has."""


def describe_model() -> dict[str, Any]:
    """The values of :data:`DESCRIBED` in the config under evaluation, as plain JSON (ours).

    Those of :data:`PERHAPS` are with them where they are not empty. Components keep their ``_target_``; expressions
    and references are replaced by what they give.

    Raises:
        DataError: when a value cannot be written without code.
    """
    parser = enclosing_parser()
    found = {key: _plain(parser, key) for key in DESCRIBED}
    found |= {key: value for key in PERHAPS if (value := _plain(parser, key))}
    if (text := find_config_text(found)) is not None:
        raise DataError(f"{text!r} would be code in a config. Give the class or channel another name.")
    return found


def _plain(parser: ConfigParser, key: str) -> Any:
    value = parser[key]
    if isinstance(value, str) and value.startswith(("@", "$")):
        name = value.removeprefix("@").replace("::", "#")
        if value.startswith("@") and _names_a_component(parser, name):
            return _plain(parser, name)
        value = parser.get_parsed_content(key)
    elif isinstance(value, dict):
        return {name: _plain(parser, f"{key}#{name}") for name in value}
    elif isinstance(value, list):
        return [_plain(parser, f"{key}#{number}") for number in range(len(value))]
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise DataError(
            f"{key}: a {type(value).__name__}, which cannot be written without code. Give it as numbers and texts."
        ) from error


def _names_a_component(parser: ConfigParser, name: str) -> bool:
    try:
        return isinstance(parser[name], dict) and "_target_" in parser[name]
    except KeyError:
        return False
