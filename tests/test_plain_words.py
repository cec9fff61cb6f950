# SPDX-License-Identifier: Apache-2.0
"""What the machine does to a program is told in a sentence; errors of the program keep their traceback."""

import errno
import os
import subprocess
import sys

import pytest
import torch

from scripts.errors import plain_words

CASES = [
    (MemoryError(), "Not enough memory. Use a smaller batch_size"),
    (torch.OutOfMemoryError("CUDA out of memory."), "Not enough memory."),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "Not enough memory."),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "Not enough memory."),
    (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device. Make room"),
    (OSError(errno.EROFS, "Read-only file system", "a"), "a: Read-only file system. Name a folder"),
    (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied. Ask for the right"),
    (FileNotFoundError("No such file or no access: 'a.nii'"), "No such file or no access: 'a.nii'. Put it back"),
    (
        RuntimeError("LoadImage cannot find a suitable reader for file: /d/a.nii.gz.\n Please"),
        "/d/a.nii.gz.: cannot be",
    ),
    (RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly"), "A process that loads data has died"),
    (RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed."), "A process that loads data has died"),
    (RuntimeError("CUDA error: device lost\nmore"), "The GPU has failed (CUDA error: device lost)."),
    (AssertionError("Torch not compiled with CUDA enabled"), "There is no such device here (Torch not compiled"),
    (RuntimeError("No CUDA GPUs are available"), "There is no such device here"),
    (RuntimeError("CUDA error: invalid device ordinal\nmore"), "There is no such device here"),
    (KeyboardInterrupt(), "Interrupted."),
]


@pytest.mark.parametrize(("error", "words"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_machines_errors_are_sentences_also_when_wrapped(error, words):
    wrapped = RuntimeError("Failed to evaluate")
    wrapped.__cause__ = error
    assert plain_words(error).startswith(words)
    assert plain_words(wrapped) == plain_words(error)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("a"), OSError(errno.EPIPE, "Broken pipe"), RuntimeError()])
def test_errors_of_the_program_stay_what_they_are(error):
    assert plain_words(error) is None


def test_a_process_without_memory_ends_in_one_sentence(bundle_root):
    code = "from scripts.errors import report_data_errors_briefly as brief; brief(); bytearray(1 << 60)"
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle_root, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Not enough memory.") and done.stderr.count("\n") == 1
