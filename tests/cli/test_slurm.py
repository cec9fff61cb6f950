# SPDX-License-Identifier: Apache-2.0
"""The script for Slurm puts a job back into the queue when, and only when, its training wants to go on."""

import os
import subprocess

import pytest

from scripts.bundle_files import BUNDLE


def tool(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [(143, "RUNNING", True), (143, "COMPLETING", False), (0, "RUNNING", False), (1, "RUNNING", False)],
)
def test_requeue(tmp_path, code, state, requeued):
    tool(tmp_path, "srun", f'echo "$@" > {tmp_path}/started; exit {code}')
    tool(tmp_path, "squeue", f"echo {state}")
    tool(tmp_path, "scontrol", f'echo "$@" > {tmp_path}/asked')
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    script = BUNDLE / "docs" / "examples" / "slurm_train.sh"
    done = subprocess.run(["bash", script, "scans", "--labeled", "8"], env=environment, capture_output=True)
    assert done.returncode == code
    assert (tmp_path / "started").read_text() == "dualseg train scans --labeled 8\n"
    assert (tmp_path / "asked").exists() == requeued
    if requeued:
        assert (tmp_path / "asked").read_text() == "requeue 7\n"


def test_the_script_waits_for_the_training_to_save_when_slurm_ends_it_too(tmp_path):
    tool(tmp_path, "srun", f"kill -TERM $PPID; sleep 0.3; touch {tmp_path}/saved; exit 143")
    tool(tmp_path, "squeue", "echo COMPLETING")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", BUNDLE / "docs" / "examples" / "slurm_train.sh"], env=environment)
    assert done.returncode == 143 and (tmp_path / "saved").exists()
