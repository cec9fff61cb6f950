# SPDX-License-Identifier: Apache-2.0
"""Memory and time of checking a large scan: ``python benchmarks/check_memory.py --folder DIR --gigabytes 2.7``."""

import resource
import sys
import tempfile
import time
from pathlib import Path

import fire
import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.data import inspect_data

PLANE = (1024, 1024)
BLOCK = 16
"""Slices that are made at a time."""


def peak() -> float:
    """Most memory that this process has held, in MiB (on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make(path: Path, slices: int) -> None:
    """A 16-bit NIfTI file of noise, written in parts."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((*PLANE, slices))
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    draw = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(slices // BLOCK):
            file.write(draw.integers(-1000, 1000, (BLOCK, *PLANE), dtype=np.int16).tobytes())


def main(folder: str | None = None, gigabytes: float = 2.7) -> None:
    """Print what checking costs.

    Args:
        folder: for the file, which is removed in the end; default: the system's folder for temporary files.
        gigabytes: size of the scan.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place, "large.nii")
        make(path, max(1, round(gigabytes * 1e9 / 2 / np.prod(PLANE) / BLOCK)) * BLOCK)
        before, start = peak(), time.perf_counter()
        report = inspect_data(
            {"labels": {0: "background", 1: "any"}, "unlabeled": [{"image": str(path)}]}, progress=False
        )
        print(f"{path.stat().st_size / 1e9:.2f} GB, shape {report.cases[0].shape}, {len(report.errors)} errors")
        print(f"{time.perf_counter() - start:.0f} s, peak {peak():.0f} MiB, of which before the check {before:.0f} MiB")


if __name__ == "__main__":
    fire.Fire(main)
