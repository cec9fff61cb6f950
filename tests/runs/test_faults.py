# SPDX-License-Identifier: Apache-2.0
"""What a training needs is taken from it: one sentence, an exit code; when it is back, on to the same end."""

import json
import os
import subprocess
import sys

import pytest

FAULTS = [
    "memory (`ulimit -v`)",
    "disk full at the first checkpoint",
    "disk full at a later one",
    "scans removed in mid-run",
    "scans cut off in mid-run",
    "process that loads data killed",
    "Ctrl-C before the first step",
]


@pytest.fixture(scope="module")
def rows(bundle_root, shared_data):
    command = [sys.executable, "benchmarks/faults.py", str(shared_data / "hippocampus"), "--keep", "False"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=bundle_root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["taken away"]: row for row in json.loads(done.stdout.splitlines()[-1])}, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_one_sentence_and_on_to_the_same_end(rows, fault):
    row, errors = rows[0][fault], rows[1][-3000:]
    assert row["exit code"] == (130 if "Ctrl-C" in fault else 1), errors
    assert (row["sentences"], row["tracebacks"], row["left over"]) == (1, 0, 0), errors
    assert row["then goes on to the same end"] == "yes", errors
