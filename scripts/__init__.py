# SPDX-License-Identifier: Apache-2.0
"""Dual-network semi-supervised segmentation; installed by pip as ``dualseg``, imported by the bundle as ``scripts``."""

from importlib import import_module

_SUBPACKAGES = ("data", "engines", "handlers", "label", "losses", "methods", "networks")


def __getattr__(name: str):
    # Subpackages load when first named: a config needs only ``import scripts``, and the losses stay free of the rest's
    # imports.
    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
