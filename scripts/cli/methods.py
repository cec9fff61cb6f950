# SPDX-License-Identifier: Apache-2.0
"""``dualseg methods``: which methods there are, and what each of them does."""

# No postponed annotations here: Fire shows them as they are.

import json

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ..bundle_files import CONFIGS, config_names
from ..errors import DataError

__all__ = ["methods"]


def methods(name: str | None = None) -> None:
    """List the methods for "dualseg train --method": each is a small config, and may be copied and changed.

    Example: dualseg methods rcps

    Args:
        name: of one method; it is an error when there is none of that name. Default: all.
    """
    default = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))
    names = config_names("methods")
    if name is not None and str(name) not in names:
        raise DataError(f"{name}: no method has this name. There are {', '.join(names)}.")
    table = Table(Column("method", no_wrap=True), "what it does", "terms of its loss", box=SIMPLE_HEAD)
    for one in names if name is None else [str(name)]:
        config = json.loads((CONFIGS / "methods" / f"{one}.json").read_text(encoding="utf-8"))
        shown = f"{one} (default)" if one == default["method_name"] else one
        terms = config.get("method", default["method"]).get("terms", {})
        table.add_row(shown, Text(config["_desc_"]), ", ".join(terms))
    Console().print(table)
