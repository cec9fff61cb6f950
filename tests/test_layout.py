# SPDX-License-Identifier: Apache-2.0
"""The house's order: imports run one way, folders stay small, pip installs all of it."""

import ast
import warnings
from functools import cache
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

# A part may import those that stand in an earlier line; in the first line, the ground, also its neighbours.
FLOORS = (
    (
        *("errors", "files", "ranks", "annotation", "config_text"),
        *("progress", "bundle_files", "bundle", "hardware", "tensor_files"),
    ),
    ("losses", "networks", "data"),
    ("methods",),
    ("engines", "inference"),
    ("runs",),
    ("reports", "export"),
    ("monai_label", "certainty"),
    ("folds",),
    ("cli",),
)
MODULES_IN_A_FOLDER = 12
FLOORS_IN_A_FOLDER = 3


@cache
def modules():
    """{dotted name below scripts: file}; a package by its name."""
    found = {}
    for path in sorted(SCRIPTS.rglob("*.py")):
        parts = path.relative_to(SCRIPTS).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _nodes(tree):
    """All of a module but what only a type checker reads."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not (isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)


@cache
def imports():
    """{module: modules of the package that it imports}, wherever in the file."""
    known = modules()
    graph = {}
    for name, path in known.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        package = [part for part in package if part]
        graph[name] = set()
        for node in _nodes(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "scripts" for alias in node.names), f"{path}: not relative"
            if isinstance(node, ast.ImportFrom):
                assert node.level or node.module.split(".")[0] != "scripts", f"{path}: not relative"
                if not node.level:
                    continue
                base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
                for alias in node.names:
                    whole = ".".join([*base, alias.name])
                    graph[name].add(whole if whole in known else ".".join(base))
    return graph


def part(name):
    return name.split(".")[0]


def test_imports_run_one_way_between_the_parts():
    height = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if part(name) != part(other) and not name.endswith("__main__")  # a start, which is on all
        if height[part(other)] >= max(1, height[part(name)])
    ]
    assert not wrong


def test_every_part_has_its_floor():
    parts = {part(name) for name in modules()} - {"", "__main__"}
    assert parts == {name for names in FLOORS for name in names}


def test_no_module_imports_itself_by_way_of_others():
    graph = imports()

    def below(name, above):
        assert name not in above, f"a circle: {' imports '.join([*above, name])}"
        for other in graph[name] - {""}:
            below(other, [*above, name])

    for name in graph:
        below(name, [])


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in SCRIPTS.rglob("__init__.py")))
def test_no_folder_is_crowded(folder):
    [path] = [path for path in (SCRIPTS, *SCRIPTS.rglob(folder)) if path.name == folder and path.is_dir()]
    own = [entry for entry in path.glob("*.py") if not entry.name.startswith("__")]
    assert len(own) <= MODULES_IN_A_FOLDER


@pytest.mark.parametrize("folder", sorted({str(p.parent.relative_to(SCRIPTS)) for p in SCRIPTS.rglob("__init__.py")}))
def test_imports_inside_a_folder_have_few_floors(folder):
    prefix = "" if folder == "." else folder.replace("/", ".") + "."

    def room(name):
        """What of the folder a module belongs to: a module of its own, or a folder in it; None outside."""
        return name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) and name != prefix else None

    graph = {}
    for name, others in imports().items():
        if room(name):
            graph.setdefault(room(name), set()).update(filter(None, map(room, others)))
    graph.pop("__main__", None)

    def floors(name):
        return 1 + max((floors(other) for other in graph[name] if other != name), default=0)

    if folder != ".":  # the floors of the whole are those above
        assert max(map(floors, graph), default=0) <= FLOORS_IN_A_FOLDER


def test_pip_installs_every_folder():
    tomllib = pytest.importorskip("tomllib")
    listed = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = (path.parent.relative_to(SCRIPTS) for path in SCRIPTS.rglob("__init__.py"))
    of_the_bundle = [name for name in listed if name.startswith("dualseg.bundle")]  # configs and weights, no package
    assert sorted(set(listed).difference(of_the_bundle)) == sorted(".".join(("dualseg", *f.parts)) for f in folders)


def test_former_names_still_work_and_say_what_they_are_now():
    import scripts
    from scripts.runs import RunState

    with pytest.warns(DeprecationWarning, match="scripts.handlers is now scripts.runs or scripts.reports"):
        assert scripts.handlers.RunState is RunState
    with pytest.warns(DeprecationWarning, match="scripts.label is now scripts.data"):
        assert scripts.label.LoneSpacingd is scripts.data.LoneSpacingd
    with pytest.raises(AttributeError, match="no attribute 'handler'"), warnings.catch_warnings():
        scripts.handler  # noqa: B018
