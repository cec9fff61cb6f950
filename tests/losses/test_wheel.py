# SPDX-License-Identifier: Apache-2.0
"""A wheel of the repository, installed into an empty environment, passes the loss tests as ``dualseg.losses``."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest

CONFTEST = """
import sys

import dualseg.losses

assert "site-packages" in dualseg.__file__, dualseg.__file__
sys.modules["scripts"], sys.modules["scripts.losses"] = dualseg, dualseg.losses
"""


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_passes_the_loss_tests_in_an_empty_environment(tmp_path, request):
    root = request.config.rootpath
    if not (root / "pyproject.toml").is_file() or not (root / "scripts").is_dir():
        pytest.skip(f"no repository to build a wheel of at {root}")
    for module in ("pip", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed here, so no wheel can be built offline")
    source = tmp_path / "source"
    shutil.copytree(root / "scripts", source / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("dualseg-*.whl")

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    # torch, monai and pytest are those of this environment: nothing is downloaded
    with open(os.path.join(site, "this_environment.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    run(*pip, "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)

    tests = tmp_path / "suite" / "losses"
    shutil.copytree(root / "tests" / "losses", tests, ignore=shutil.ignore_patterns("__pycache__", "test_wheel.py"))
    (tmp_path / "suite" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "suite" / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes more than ten seconds\n")
    summary = run(
        python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "losses", cwd=tmp_path / "suite"
    )
    assert " passed" in summary and " failed" not in summary
