# SPDX-License-Identifier: Apache-2.0
"""Reads scans as the check does, each in a process forked from this one; prints what came of each as JSON.

From standard input: a JSON list of paths. To standard output: for each [seconds, MiB on top, outcome, text]; the
outcome is read, refused (in one sentence), traceback or killed.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback

import itk
import monai.transforms  # noqa: F401
import numpy as np
import psutil
import pydicom  # noqa: F401

from scripts.data import DataError
from scripts.data.io.volumes import open_volume

LIMIT_S, LIMIT_MIB = 10, 400


def outcome(path):
    try:
        with open_volume(path) as volume:
            values = [float(np.abs(slab.astype(np.float64, copy=False)).max()) for slab in volume.slabs()]
        return "read", f"{volume.shape} {max(values)} {volume.notes}"
    except DataError as error:
        return "refused", str(error)
    except BaseException:
        return "traceback", traceback.format_exc()


def main():
    for part in ("F", "ImageIOFactory", "ImageFileReader"):  # what is lazy loads here, once
        getattr(itk, part)
    results = []
    for path in json.load(sys.stdin):
        reader, writer = os.pipe()
        begin = time.monotonic()
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_S)
            held = psutil.Process().memory_info()
            resource.setrlimit(resource.RLIMIT_AS, (held.vms + 4 * LIMIT_MIB * 2**20,) * 2)
            found = outcome(path)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - held.rss / 2**20
            os.write(writer, json.dumps([peak, *found]).encode()[:60000])
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        found = json.loads(text) if text else [0.0, "killed", f"not done after {LIMIT_S} s"]
        results.append([time.monotonic() - begin, *found])
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
