# SPDX-License-Identifier: Apache-2.0
"""The wheel, built and installed into an environment that has the packages of this one and nothing of ours."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command, cwd, code=0):
    """Output of a command that must end with this exit code, in an environment without this process' paths."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == code, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def install_wheel(root, folder):
    """Python of a new environment in ``folder`` with the wheel of the repository at ``root``; nothing is downloaded."""
    if not (root / "pyproject.toml").is_file() or not (root / "scripts").is_dir():
        pytest.skip(f"no repository to build a wheel of at {root}")
    for module in ("pip", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed here, so no wheel can be built offline")
    source = folder / "source"
    for name in ("scripts", "configs", "docs", "models"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("dualseg-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    with open(os.path.join(site, "this_environment.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    run(*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=folder)
    return python
