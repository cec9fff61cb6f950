# SPDX-License-Identifier: Apache-2.0
"""Runs many `python -m monai.bundle ...` commands after a single import, each in a process forked from this one.

Reads from standard input a JSON list of [arguments, path of a log]; prints the list of exit codes. A forked process
goes through `__main__` of monai.bundle and the interpreter's own handling of errors, as the command does.
"""

import json
import os
import runpy
import sys

# Like `python -m`: the folder we are in, not that of this file.
sys.path[0] = os.getcwd()

import ignite.engine  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import monai.bundle  # noqa: E402
import monai.engines  # noqa: E402
import monai.handlers  # noqa: E402, F401
import nibabel  # noqa: E402, F401
import rich.progress  # noqa: E402, F401
import scipy.ndimage  # noqa: E402, F401

codes = []
for arguments, log in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["monai.bundle", *arguments]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        sys.exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.stdout.write(json.dumps(codes))
