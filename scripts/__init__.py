# SPDX-License-Identifier: Apache-2.0
"""Dual-network semi-supervised segmentation; installed by pip as ``dualseg``, imported by the bundle as ``scripts``."""

import warnings
from importlib import import_module
from types import SimpleNamespace

_SUBPACKAGES = (
    "certainty",
    "cli",
    "data",
    "engines",
    "export",
    "folds",
    "inference",
    "losses",
    "methods",
    "monai_label",
    "networks",
    "reports",
    "runs",
)
_FORMER = {"handlers": ("runs", "reports", "engines"), "label": ("data",)}


def __getattr__(name: str):
    # Subpackages load when first named: a config needs only ``import scripts``, and the losses stay free of the rest's
    # imports.
    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    if name in _FORMER:
        places = [import_module(f".{place}", __name__) for place in _FORMER[name]]
        where = " or ".join(place.__name__ for place in places)
        warnings.warn(f"{__name__}.{name} is now {where}; the old name goes in 0.10.", DeprecationWarning, stacklevel=2)
        return SimpleNamespace(**{export: getattr(place, export) for place in places for export in place.__all__})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
