# SPDX-License-Identifier: Apache-2.0
"""Clients show the last line that a training has printed: let it say what to do."""

from __future__ import annotations

import sys
from types import TracebackType

from fastapi import HTTPException


def show_refusals_briefly() -> None:
    """Let an uncaught HTTPException end the process with its message alone; other errors keep their traceback."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, HTTPException):
        sys.stderr.write(f"Error: {error.detail}\n")
    else:
        sys.__excepthook__(kind, error, trace)
