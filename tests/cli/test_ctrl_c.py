# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in the seconds in which a command imports torch and MONAI: one sentence, exit code 130, no traceback."""

import os
import signal
import subprocess
import sys

import pytest

from scripts.bundle_files import BUNDLE

ENTRY = next(line for line in (BUNDLE / "pyproject.toml").open() if line.startswith("dualseg = ")).split('"')[1]
MODULE, FUNCTION = ENTRY.replace("dualseg", "scripts").split(":")
MODULES = ("-m", "scripts")
INSTALLED = ("-c", f"from {MODULE} import {FUNCTION}; {FUNCTION}()")  # what pip writes into its script


def interrupt(command, module, times=1, deaf=False):
    """(exit code, what stood on stderr) of a command whose terminal sends Ctrl-C once a module is imported.

    Args:
        module: name of the module; Python is asked to say on stderr what it imports.
        times: how many processes have to have imported it; 2: the training, too, which the command starts.
        deaf: whether to start it as a shell starts what is to run in its background.
    """
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=BUNDLE,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # always set, as these tests may themselves run in a shell's background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.SIG_DFL),
    )
    try:
        for line in process.stderr:
            times -= line.startswith("import time:") and line.split("|")[-1].strip() == module
            if times == 0:
                break
        assert times == 0, f"{module} was not imported so often"
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, "".join(line for line in errors.splitlines(True) if not line.startswith("import time:"))


@pytest.mark.parametrize("start", [MODULES, INSTALLED], ids=["module", "installed"])
@pytest.mark.parametrize("words", [("train", "--runs"), ("split", "--help")], ids=["train", "help"])
@pytest.mark.parametrize("module", ["fire", "torch._C", "monai.utils"])
def test_while_the_command_imports(tmp_path, start, words, module):
    command = [*start, *words, *([str(tmp_path / "runs")] if words[0] == "train" else [])]
    code, errors = interrupt(command, module)
    assert code == 130
    assert errors == "\nInterrupted. The same command starts again, a training from its last checkpoint.\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("module", ["fire", "torch._C", "monai.utils", "scripts.data"])
def test_while_the_training_that_it_starts_imports(tmp_path, module):
    code, errors = interrupt([*MODULES, "train", "--runs", str(tmp_path / "runs")], module, times=2)
    assert code == 130
    assert errors.count("Interrupted.") == 1 and "Traceback" not in errors
    assert "To go on with this training, give the same command again." in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_runs_in_a_shells_background_goes_on():
    assert interrupt([*MODULES, "methods"], "fire", deaf=True) == (0, "")
