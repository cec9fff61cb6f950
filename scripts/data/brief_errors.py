# SPDX-License-Identifier: Apache-2.0
"""A bad scan is the user's to mend: show what is wrong with it, not where the program noticed."""

from __future__ import annotations

import sys
from types import TracebackType

from .errors import DataError

__all__ = ["report_data_errors_briefly"]


def report_data_errors_briefly() -> None:
    """Let an uncaught :class:`DataError` end the process with its message alone, also when MONAI has wrapped it (ours).

    MONAI's config parser turns every error into "Failed to instantiate ..." below pages of traceback. Exit status stays
    1; programs that catch exceptions see no difference, and any other error keeps its traceback.
    """
    if getattr(sys.excepthook, "__name__", "") != _show_briefly.__name__:
        previous = sys.excepthook
        sys.excepthook = lambda *error: _show_briefly(*error, previous)
        sys.excepthook.__name__ = _show_briefly.__name__


def _show_briefly(kind: type, error: BaseException, trace: TracebackType | None, otherwise) -> None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DataError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        otherwise(kind, error, trace)
    else:
        sys.stderr.write(f"Error: {cause}\n")
