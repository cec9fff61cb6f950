# SPDX-License-Identifier: Apache-2.0
"""The config that is being evaluated, for functions that its expressions call."""

from __future__ import annotations

import sys

from monai.bundle import ConfigParser

__all__ = ["enclosing_parser"]


def enclosing_parser() -> ConfigParser:
    """The parser that evaluates the expression which called the caller (ours).

    MONAI forces this walk up the stack: it evaluates an expression with its imports and with the values that it refers
    to, and gives it no access to the config as a whole. A function that has to see the whole config, all overrides
    merged, finds the parser among its callers only. This is the one place that does so.

    Raises:
        RuntimeError: when no config is being evaluated.
    """
    frame = sys._getframe(1)
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back
    raise RuntimeError("This function is for expressions in a bundle's config: no ConfigParser is evaluating one now.")
