# SPDX-License-Identifier: Apache-2.0
"""Writes docs/commands.md: every command with its options, as the commands themselves document them.

python docs/commands.py
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.cli import COMMANDS, EXIT_CODES  # noqa: E402

PAGE = ROOT / "docs" / "commands.md"
INTRODUCTION = """# All commands

Written by `python docs/commands.py` from the commands themselves; `dualseg NAME --help` says the same. Those that
train, predict, evaluate or export print the command of MONAI they stand for.

"""


def page() -> str:
    """The whole page."""
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    links = ", ".join(f"[{name}](#{name})" for name in COMMANDS)
    parts = [INTRODUCTION, filled(links), "\n", "## Exit codes\n\n| code | meaning |\n|---|---|\n", codes]
    return "".join([*parts, *(section(name, command) for name, command in COMMANDS.items())])


def section(name: str, command: Callable) -> str:
    """One command: what it does, how it is written, its options."""
    text = inspect.getdoc(command) or ""
    about, _, rest = text.partition("\nArgs:\n")
    described = options(rest)
    signature = inspect.signature(command)
    rows = []
    for parameter in signature.parameters.values():
        positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        shown = parameter.name.upper() if positional else f"--{parameter.name}"
        rows.append(filled(f"- `{shown}`: {described[parameter.name]}", "  "))
    example = re.search(r"Example: (.+)", about)
    about = re.sub(r"\n*Example: .+\n*", "\n", about).strip()
    lines = [f"\n## {name}\n\n", filled(" ".join(about.split())), "\n"]
    usage = " ".join(argument(one) for one in signature.parameters.values())
    lines += [textwrap.fill(f"dualseg {name} {usage}", 116, initial_indent="    ", subsequent_indent=" " * 8), "\n\n"]
    if example:
        lines.append(f"For example `{example[1]}`\n\n")
    return "".join([*lines, *rows])


def filled(text: str, indent: str = "") -> str:
    """A paragraph in lines that are not too long; code stays whole."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) + "\n"


def argument(parameter: inspect.Parameter) -> str:
    """How an argument stands on the command line."""
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"{parameter.name.upper()} ..."
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        name = parameter.name.upper()
        return name if parameter.default is inspect.Parameter.empty else f"[{name}]"
    return f"[--{parameter.name}]"


def options(text: str) -> dict[str, str]:
    """{name: meaning} of the section "Args" of a docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        start = re.match(r"    (\w+): (.*)", line)
        if start and not line.startswith(" " * 5):
            name = start[1]
            found[name] = start[2]
        elif line.startswith(" " * 8) and name:
            found[name] += " " + line.strip()
        elif line.strip():
            break  # another section
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
