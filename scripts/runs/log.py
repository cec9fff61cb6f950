# SPDX-License-Identifier: Apache-2.0
"""The run's log: one JSON object a line, every one with its epoch, so that a resumed run continues it seamlessly."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path

from ..files import replace_file

__all__ = ["RunLog"]

logger = logging.getLogger(__name__)


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
        """All whole records; what a kill or a power cut has broken is left out, no file gives an empty list."""
        return self._parse()[0]

    def drop_from(self, epoch: int) -> None:
        """Remove the records of `epoch` and later, which a resumed run will write again, and broken lines."""
        if self.path.exists():
            records, broken = self._parse()
            if broken:
                logger.warning("%s: %d broken lines are removed; the training does not need them.", self.path, broken)
            kept = [record for record in records if record["epoch"] < epoch]
            with replace_file(self.path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def _parse(self) -> tuple[list[dict[str, object]], int]:
        """The records, and how many whole lines are none."""
        if not self.path.exists():
            return [], 0
        # A line that was cut off has no end, and is no damage: a kill leaves it.
        lines = self.path.read_bytes().split(b"\n")[:-1]
        records = [record for record in map(_record, lines) if record is not None]
        return records, len(lines) - len(records)


def _record(line: bytes) -> dict[str, object] | None:
    try:
        record = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    return record if isinstance(record, dict) and isinstance(record.get("epoch"), int) else None


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
