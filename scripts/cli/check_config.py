# SPDX-License-Identifier: Apache-2.0
"""``dualseg check_config``: would a stranger's configs run code that this bundle does not?"""

# No postponed annotations here: Fire shows them as they are.

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser

from ..errors import DataError

__all__ = ["check_config", "find_foreign_code"]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SUFFIXES = (".json", ".yaml", ".yml")
TARGETS = re.compile(
    r"scripts\.\w+(\.\w+)*"
    r"|monai\.(networks|losses|transforms|data|inferers|handlers|metrics|engines|optimizers)\.\w+(\.\w+)*"
    r"|torch\.(nn|optim)(\.\w+)+"
)
"""What a ``_target_`` may name, beside MONAI's components by their short names."""
INNER_MACRO = re.compile(r"%[\w#:]+")
REFERENCE = re.compile(r"@[\w#:]+")
PLAIN = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.List, ast.Tuple, ast.Dict, ast.Subscript, ast.Slice),
    *(ast.UnaryOp, ast.UAdd, ast.USub, ast.Not, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.BoolOp, ast.And, ast.Or, ast.IfExp, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
    *(ast.Is, ast.IsNot, ast.In, ast.NotIn),
)
"""Of what an expression may consist that is not one of the bundle's own: nothing that calls or reaches into objects."""


def check_config(*paths: str) -> int:
    """Look for code in configs of somebody else; nothing of them is evaluated; exit code 1 when there is any.

    A config of MONAI is a program. Allowed are the expressions of this bundle's own configs, sums and comparisons of
    values, and components of MONAI, of torch.nn, torch.optim and of this package. Python files beside a config are
    not looked at: use this bundle's.

    Example: dualseg check_config runs/NAME

    Args:
        paths: config files (JSON, YAML, logging.conf), or folders of them, such as that of a run.
    """
    if not paths:
        raise DataError("Name the config files, or a folder with them.")
    files = [file for path in paths for file in _files(Path(str(path)))]
    problems = [f"{file}: {problem}" for file in files for problem in _problems(file)]
    for problem in problems:
        print(problem)
    print(f"{len(files)} files, {len(problems)} texts that may run foreign code")
    return 1 if problems else 0


def find_foreign_code(config: Any, key: str = "") -> Iterator[str]:
    """Texts of a config that would run code beyond what is allowed, with their keys (ours).

    Args:
        config: parsed JSON; it is not evaluated.
        key: where in the config it stands.

    Example:
        >>> list(find_foreign_code({"a": "$__import__('os').getpid()", "b": "$@a + 1"}))
        ["a: the expression $__import__('os').getpid() is none of this bundle's"]
    """
    if isinstance(config, dict):
        for name, value in config.items():
            yield from find_foreign_code(value, f"{key}#{name}" if key else str(name))
            if name == "_target_" and isinstance(value, str) and not _is_known_target(value):
                yield f"{key}: _target_ {value} is no component of MONAI, torch.nn, torch.optim or this package"
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from find_foreign_code(value, f"{key}#{number}")
    elif isinstance(config, str):
        text = config.strip()
        if text.startswith("$") and config not in _own_texts() and not _is_plain(text[1:]):
            yield f"{key}: the expression {config} is none of this bundle's"
        elif text.startswith("%") and config not in _own_texts() and not INNER_MACRO.fullmatch(text):
            yield f"{key}: {config} reads another file"


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in (*SUFFIXES, ".conf") and file.is_file())
    if not found:
        raise DataError(f"{path}: there is no config in it.")
    return found


def _problems(file: Path) -> list[str]:
    if file.suffix == ".conf":
        own = CONFIGS / file.name
        same = own.is_file() and own.read_bytes() == file.read_bytes()
        return [] if same else ["Python evaluates a logging file, and this one is not the bundle's"]
    try:
        config = ConfigParser.load_config_file(str(file))
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{file}: cannot be read as a config ({str(error) or type(error).__name__}).") from error
    return list(find_foreign_code(config))


@cache
def _own_texts() -> frozenset[str]:
    """All texts of the bundle's own configs."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from texts(item)

    own = [ConfigParser.load_config_file(str(file)) for file in CONFIGS.rglob("*.json")]
    return frozenset(text for config in own for text in texts(config))


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def _is_known_target(name: str) -> bool:
    if "." in name:
        return TARGETS.fullmatch(name) is not None
    return _locator().get_component_module_name(name) is not None


def _is_plain(expression: str) -> bool:
    """Whether an expression only combines values."""
    try:
        tree = ast.parse(REFERENCE.sub("reference", expression).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, PLAIN) for node in ast.walk(tree))
