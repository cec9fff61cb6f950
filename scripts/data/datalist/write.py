# SPDX-License-Identifier: Apache-2.0
"""A datalist as a file that can be moved together with its scans."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files import save_text
from .read import SECTION, SECTIONS, is_lines, refuse_config_text

__all__ = ["refuse_existing", "save_content", "write_datalist"]


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise a DataError when a datalist is there and may not be replaced."""
    if path.exists() and not overwrite:
        raise DataError(f"{path}: exists already. Name another file with --output, or add --overwrite.")


def write_datalist(datalist: dict[str, Any], path: str | os.PathLike, overwrite: bool = False) -> str:
    """Write a datalist with paths relative to it, at once or not at all.

    Args:
        datalist: from :func:`split_cases`.
        path: the JSON file, or ``NAME.jsonl`` for JSON lines (:func:`load_datalist`).
        overwrite: whether a file of that name may be replaced.

    Returns:
        The path.

    Raises:
        DataError: when the file exists, cannot be written, or a name in it would be code in a config.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    refuse_config_text(path, {key: value for key, value in datalist.items() if key not in SECTIONS})
    root = path.absolute().parent

    def relative(file: str | list[str]) -> str | list[str]:
        return (
            [relative(one) for one in file] if isinstance(file, list) else Path(os.path.relpath(file, root)).as_posix()
        )

    content = {
        key: [{k: relative(v) if k in ("image", "label") else v for k, v in case.items()} for case in value]
        if key in SECTIONS
        else value
        for key, value in datalist.items()
    }
    save_content(content, path)
    return str(path)


def save_content(content: dict[str, Any], path: Path) -> None:
    """Write what a datalist's file says as JSON or, by its name, JSON lines; its paths as they are."""
    save_text((_lines(content) if is_lines(path) else json.dumps(content, indent=1, ensure_ascii=False)) + "\n", path)


def _lines(content: dict[str, Any]) -> str:
    head = {key: value for key, value in content.items() if key not in SECTIONS}
    cases = [{SECTION: section, **case} for section in SECTIONS for case in content.get(section, [])]
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in (head, *cases))
