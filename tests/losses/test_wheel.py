# SPDX-License-Identifier: Apache-2.0
"""A wheel of the repository, installed into an empty environment, passes the loss tests as ``dualseg.losses``."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from installed import install_wheel, run

CONFTEST = """
import sys

import dualseg.losses

assert "site-packages" in dualseg.__file__, dualseg.__file__
sys.modules["scripts"], sys.modules["scripts.losses"] = dualseg, dualseg.losses
"""


@pytest.mark.slow
def test_the_wheel_passes_the_loss_tests_in_an_empty_environment(tmp_path, request):
    root = request.config.rootpath
    python = install_wheel(root, tmp_path)
    tests = tmp_path / "suite" / "losses"
    shutil.copytree(root / "tests" / "losses", tests, ignore=shutil.ignore_patterns("__pycache__", "test_wheel.py"))
    (tmp_path / "suite" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "suite" / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes more than ten seconds\n")
    summary = run(
        python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "losses", cwd=tmp_path / "suite"
    )
    assert " passed" in summary and " failed" not in summary
