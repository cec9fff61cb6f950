# SPDX-License-Identifier: Apache-2.0
"""Where the bundle's configs and weights lie: beside this package in the bundle, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

from .errors import DataError

__all__ = ["BUNDLE", "CONFIGS", "INSTALLED", "config_file", "config_names", "program_config"]

PACKAGE = Path(__file__).resolve().parent
BUNDLE = PACKAGE.parent if (PACKAGE.parent / "configs" / "train.json").is_file() else PACKAGE / "bundle"
"""The bundle's root: it has ``configs``, ``models`` and, under the name ``scripts``, this package."""
CONFIGS = BUNDLE / "configs"
INSTALLED = BUNDLE.parent == PACKAGE
"""Whether pip has installed the package: its command is ``dualseg``, and no folder has the configs at hand."""


def program_config(name: str) -> Path:
    """A config that makes a program: ``train``, ``inference``, ``evaluate``, ``review``."""
    return CONFIGS / f"{name}.json"


def config_names(kind: str) -> list[str]:
    """Names of the configs in ``configs/KIND``: ``methods``, ``recipes`` or ``datasets``."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.json"))


def config_file(kind: str, name: str, option: str) -> Path:
    """The config ``name`` in ``configs/KIND`` (ours).

    Args:
        kind: ``methods``, ``recipes`` or ``datasets``.
        name: of the config, or a JSON file of the user's own.
        option: with which it was asked for, for the error.

    Raises:
        DataError: when there is none; it lists those that there are.
    """
    if name.endswith(".json"):
        path = Path(name).absolute()
        if not path.is_file():
            raise DataError(f"{name}: no such file. Correct {option}.")
        return path
    if name not in config_names(kind):
        raise DataError(f"{option} {name}: must be one of {', '.join(config_names(kind))}, or a JSON file.")
    return CONFIGS / kind / f"{name}.json"
