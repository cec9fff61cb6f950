# SPDX-License-Identifier: Apache-2.0
"""Scans per minute of configs/inference.json, and how they depend on its keys.

    python benchmarks/inference.py --rounds 2      # a phantom of 112 x 112 x 64 voxels, shipped weights

Every round segments the same scan, from file to file, with each of the variants; a ratio is the median over rounds of
the ratio within one. With one CPU thread, time is that of the process's threads; then reading ahead has no core of its
own, and its gain does not show.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from losses import seconds
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "window_inference.json"
sys.path.insert(0, str(ROOT))

from scripts.data import phantom_dataset  # noqa: E402
from scripts.hardware import device_name  # noqa: E402

SIZE = (112, 112, 64)
REFERENCE = "as shipped"
VARIANTS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "1 window at a time": {"inferer#sw_batch_size": 1},
    "4 windows at a time": {"inferer#sw_batch_size": 4},
    "overlap 0.25": {"overlap": 0.25},
    "channels last": {"memory_format": "channels_last"},
    "bfloat16, channels last": {"memory_format": "channels_last", "precision": "bfloat16"},
    "each network in a pass of its own": {},
}


class OneByOne:
    """The shipped ensemble, asked for one network after the other by two passes of the sliding window."""

    def __init__(self, inferer: Callable[..., torch.Tensor]) -> None:
        self.inferer = inferer

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        parts = [self.inferer(inputs, one).float().softmax(1) for one in (network.a, network.b)]
        return (sum(parts) / 2).clamp_min(1e-30).log()


def segmenting(scans: Path, work: Path, changes: dict[str, Any], one_by_one: bool) -> Callable[[], None]:
    """Segments a folder of scans, results replaced each time."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "inference.json"))
    for key, value in {"dataset_dir": str(scans), "output_dir": str(work), "bundle_root": str(ROOT), **changes}.items():
        parser[key] = value
    parser["existing"] = "replace"
    evaluator = parser.get_parsed_content("evaluator")
    if one_by_one:
        evaluator.inferer = OneByOne(evaluator.inferer)
    return evaluator.run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        data, scans = Path(folder) / "data", Path(folder) / "scans"
        phantom_dataset(data, 0, SIZE, (1.25, 1.25, 1.25), 1, 0, 0, 0, progress=False)
        scans.mkdir()
        [image] = (data / "images").iterdir()
        image.rename(scans / image.name)
        runs = {
            name: segmenting(scans, Path(folder) / "out", changes, name.startswith("each"))
            for name, changes in VARIANTS.items()
        }
        found: dict[str, list[float]] = {name: [] for name in runs}
        minutes = []
        for number in range(rounds + 1):
            times = {name: seconds(run, torch.device("cpu")) for name, run in runs.items()}
            print({name: f"{time:.2f} s" for name, time in times.items()}, flush=True)
            if number:  # the first warms up
                minutes.append(60 / times[REFERENCE])
                for name, time in times.items():
                    found[name].append(time / times[REFERENCE])
    result = {
        "machine": f"{device_name()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
        "size": SIZE,
        "rounds": rounds,
        "scans_a_minute": round(statistics.median(minutes), 1),
        "time": {name: round(statistics.median(values), 3) for name, values in found.items()},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
