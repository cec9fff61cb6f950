# SPDX-License-Identifier: Apache-2.0
"""The run's log: one JSON object a line, every one with its epoch, so that a resumed run continues it seamlessly."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from .atomic import replace_file

__all__ = ["RunLog"]


class RunLog:
    """A JSON-lines file of records, each a dict with an "epoch". Source: ours.

    Args:
        path: the file, usually train_log.jsonl in the run's folder; created on the first record.

    Example:
        >>> log = RunLog("run/train_log.jsonl")  # doctest: +SKIP
        >>> log.append({"epoch": 1, "losses": {"loss": 0.7}})  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def append(self, record: dict[str, object]) -> None:
        """Add one record. Numbers that JSON cannot write (nan, infinity) become null."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def read(self) -> list[dict[str, object]]:
        """All complete records; a last line cut off by a kill is left out, no file gives an empty list."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def drop_from(self, epoch: int) -> None:
        """Remove the records of `epoch` and later, which a resumed run will write again."""
        if self.path.exists():
            kept = [record for record in self.read() if record["epoch"] < epoch]
            with replace_file(self.path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
