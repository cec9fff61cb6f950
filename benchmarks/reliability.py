# SPDX-License-Identifier: Apache-2.0
"""Tables of docs/runs.md on what was done to runs, and what came of it.

``python benchmarks/reliability.py`` writes them from results/reliability.json, which kill_resume.py, damage.py,
faults.py,
saving_cost.py and fuzz_losses.py fill.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pages import with_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "runs.md"


def read() -> dict[str, list[dict[str, object]]]:
    """Rows of every table."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep_row(table: str, row: dict[str, object], keys: Sequence[str]) -> None:
    """Put a row in the place of the one that has the same ``keys``, or at the end."""
    content = read()
    rows = [other for other in content.get(table, []) if any(other[key] != row[key] for key in keys)]
    content[table] = [*rows, row]
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def table_of(rows: list[dict[str, object]]) -> str:
    """Rows as a table; a key that only some have is an empty cell in the others."""
    if not rows:
        return "not run\n"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([str(row.get(key, "")) for key in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    """The text of the page with its tables."""
    text, rows = PAGE.read_text(), read()
    for table in ("kill_resume", "damage", "faults", "saving", "fuzz"):
        text = with_table(text, table, table_of(rows.get(table, [])), PAGE)
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
