# SPDX-License-Identifier: Apache-2.0
"""What was found in files, kept line by line, so that a second start or an interrupted one need not look again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from threading import Lock
from typing import Any

__all__ = ["Findings"]


class Findings:
    """A file of lines, a key and what was found as JSON: read whole, added to line by line (ours).

    A damaged line is as if it had never been written. What is found soon is not worth a file: findings are written
    once it has taken some seconds to find them, and from then on one by one.

    Args:
        path: the file. None: nothing is kept.
        seconds: after which findings are written.
    """

    def __init__(self, path: str | os.PathLike | None, seconds: float = 0.0) -> None:
        self.path = None if path is None else Path(path)
        self._write_from = time.monotonic() + seconds
        self._lock = Lock()
        self._waiting: list[str] = []
        self._known: dict[str, str] = {}
        if self.path is not None and self.path.is_file():
            with self.path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    key, separator, found = line.partition("\t")
                    if separator and found.endswith("}\n"):  # whole: a killed process may have left a part
                        self._known[key] = found

    def __getitem__(self, key: str) -> dict[str, Any] | None:
        try:
            return json.loads(self._known[key])
        except (KeyError, ValueError):
            return None

    def __setitem__(self, key: str, found: dict[str, Any]) -> None:
        if self.path is None:
            return
        with self._lock:
            self._waiting.append(f"{key}\t{json.dumps(found)}\n")
            if time.monotonic() < self._write_from:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write to the end of the file: other processes may be adding to it, too.
            with self.path.open("ab") as file:
                file.write("".join(self._waiting).encode())
            self._waiting.clear()
