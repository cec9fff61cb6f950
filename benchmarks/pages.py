# SPDX-License-Identifier: Apache-2.0
"""Generated tables in pages that people write: each stands between two marks."""

from __future__ import annotations

from pathlib import Path


def with_table(text: str, name: str, table: str, page: object) -> str:
    """The text with this table between ``<!-- table NAME -->`` and ``<!-- end of NAME -->``.

    Raises:
        SystemExit: when the text has no place for it.
    """
    begin, end = f"<!-- table {name} -->\n", f"<!-- end of {name} -->\n"
    if begin not in text or end not in text:
        raise SystemExit(f"{page}: no lines {begin.strip()} and {end.strip()} between which the table goes.")
    return text.split(begin)[0] + begin + table + end + text.split(end)[1]


def replace_table(page: Path, name: str, table: str) -> None:
    """Write this table into its place in the page."""
    text = with_table(page.read_text() if page.exists() else "", name, table, page)
    temporary = page.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(page)
