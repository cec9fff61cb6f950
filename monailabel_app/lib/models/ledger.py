# SPDX-License-Identifier: Apache-2.0
"""What was decided about the models: a file beside their folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock

from scripts.files import save_text

from ..settings import Settings


def read_ledger(settings: Settings) -> dict[str, Any]:
    """``in_use``, name of the model in use, None before a decision; ``verdicts``, one for each judged training."""
    path = settings.models_dir / f"{settings.name}_models.json"
    return json.loads(path.read_text()) if path.exists() else {"in_use": None, "verdicts": {}}


@contextmanager
def change_ledger(settings: Settings) -> Iterator[dict[str, Any]]:
    """Give the ledger, to be changed, and write it: no change of another process is lost (ours)."""
    path = settings.models_dir / f"{settings.name}_models.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        ledger = read_ledger(settings)
        yield ledger
        save_text(json.dumps(ledger, indent=1) + "\n", path)
