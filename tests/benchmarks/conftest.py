# SPDX-License-Identifier: Apache-2.0
"""The scripts in benchmarks/ as modules, with result files of the test's own."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = (
    "ablation",
    "pages",
    "pool",
    "records",
    "results",
    "rows",
    "side_by_side",
    "sparse",
    "splits",
    "peers.nnunet",
)


@pytest.fixture
def benchmark_scripts(tmp_path, monkeypatch):
    """Gives a script by name; its result files are in an empty folder until a test asks for the real ones."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def load(name, results=tmp_path / "results"):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys.modules["records"], "RESULTS", Path(results))
        return module

    yield load
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path):
    """A data set with a datalist of eight and one of two labelled scans."""
    folder = tmp_path / "data"
    folder.mkdir()
    for labels in (2, 8):
        (folder / f"datalist_{labels}.json").write_text("{}")
    return str(folder)
