# SPDX-License-Identifier: Apache-2.0
"""Memory and seconds of a start with few and with many scans: datalist, check, record of the inputs, crops from disk.

    python benchmarks/many_scans.py --scans 50 5000       # some minutes; a table in Markdown, and a JSON

Each start is a process of its own. The scans are tiny: measured is what each of them costs beside its voxels.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "benchmarks" / "results" / "many_scans.json"
SIDE, LABELED, STEPS = 16, 20, 25
FULL = (256, 256, 128)


def make(folder: Path, scans: int) -> Path:
    """Scans of noise, 20 of them labelled, and their datalist."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(scans)
    cases = []
    for number in range(scans):
        image = generator.integers(0, 1000, (SIDE,) * 3, dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / f"{number:06}.nii")
        cases.append({"image": f"{number:06}.nii"})
        if number < LABELED:
            label = (image > 500).astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / f"{number:06}_label.nii")
            cases[-1]["label"] = f"{number:06}_label.nii"
    datalist = {"labels": {"0": "background", "1": "bright"}, "training": cases[:LABELED], "unlabeled": cases[LABELED:]}
    path = folder / "datalist.json"
    path.write_text(json.dumps(datalist))
    return path


def start(datalist: Path, cache: Path) -> dict[str, float]:
    """One start, and ``STEPS`` steps' crops of 2 + 2: a core's seconds in each part, and MiB held after it."""
    from monai.bundle import ConfigParser

    from scripts.runs import compare_inputs

    config = ConfigParser()
    config.read_config(str(ROOT / "configs" / "train.json"))
    own = {
        "dataset_dir": str(datalist.parent),
        "datalist_name": datalist.name,
        "labels": {"0": "background", "1": "bright"},
    }
    own |= {
        "bundle_root": str(ROOT),
        "runs_dir": str(cache),
        "patch_size": [SIDE] * 3,
        "device": "cpu",
        "cache": "disk",
    }
    config.update({**own, "batch_size": 2, "unlabeled_batch_size": 2})
    process, found = psutil.Process(), {}

    def note(name: str, since: float) -> float:
        found[f"{name}_seconds"] = time.process_time() - since  # of all threads: other programs count little
        found[f"{name}_mib"] = process.memory_info().rss / 2**20
        return time.process_time()

    since = time.process_time()
    data = config.get_parsed_content("data")
    since = note("datalist", since)
    config.get_parsed_content("check")
    since = note("check", since)
    compare_inputs(cache / "run", data)
    since = note("record", since)
    from scripts.data import TwoStreams

    loaders = [config.get_parsed_content(f"train#{name}dataloader") for name in ("", "unlabeled#")]
    streams = TwoStreams(*loaders, epoch_length=STEPS)
    streams.set_epoch(1)
    for _ in streams:
        pass
    note("crops", since)
    return found


def full(folder: Path) -> dict[str, float]:
    """What a scan of full size costs: bytes in the cache, and a core's seconds to check, to keep and to crop it."""
    from monai.bundle import ConfigParser

    from scripts.data import DiskCacheDataset, check_data, load_datalist

    folder.mkdir()
    smooth = np.random.default_rng(0).normal(size=FULL).cumsum(0).cumsum(1)
    image = nibabel.Nifti1Image((1000 * smooth / abs(smooth).max()).astype(np.int16), np.eye(4))
    nibabel.save(image, folder / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image((smooth > 0).astype(np.uint8), np.eye(4)), folder / "label.nii.gz")
    labels = {"0": "background", "1": "bright"}
    case = {"image": "scan.nii.gz", "label": "label.nii.gz"}
    path = folder / "datalist.json"
    path.write_text(json.dumps({"labels": labels, "training": [case]}))
    found = {"file_bytes": (folder / "scan.nii.gz").stat().st_size}

    def timed(call: Callable[[], Any]) -> float:
        since = time.process_time()
        call()
        return time.process_time() - since

    datalist = load_datalist(path)
    found["check_seconds"] = timed(lambda: check_data(datalist, progress=False))
    config = ConfigParser()
    config.read_config([str(ROOT / "configs" / f"{name}.json") for name in ("train", "recipes/paper")])
    own = {"paper": {"overlap": 0.5, "flip_axes": []}, "bundle_root": str(ROOT), "device": "cpu", "labels": labels}
    own |= {"dataset_dir": str(folder), "patch_size": [112, 112, 80], "runs_dir": str(folder)}
    config.update(own)
    transform = config.get_parsed_content("train#unlabeled#preprocessing")
    dataset = DiskCacheDataset([{"image": datalist["training"][0]["image"]}], transform, folder / "cache")
    found["first_crop_seconds"] = timed(lambda: dataset[0])
    found["crop_seconds"] = float(np.mean([timed(lambda: dataset[0]) for _ in range(20)]))
    found["cache_bytes"] = next((folder / "cache").rglob("*.pt")).stat().st_size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, nargs="+", default=[50, 5000])
    parser.add_argument("--start", type=Path, nargs=2, help=argparse.SUPPRESS)  # one start, in a process of its own
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.start:
        print(json.dumps(start(*options.start)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for scans in options.scans:
            datalist, cache = make(Path(folder, str(scans)), scans), Path(folder, f"cache{scans}")
            for number in (1, 2):
                command = [sys.executable, __file__, "--start", str(datalist), str(cache)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rows.append({"scans": scans, "start": number, **json.loads(done.stdout.splitlines()[-1])})
            kept = cache / "cache" / "checked.txt"
            rows[-1]["findings_bytes"] = kept.stat().st_size if kept.exists() else 0
        one = full(Path(folder, "full"))
    machine = {"cpu": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows, "full_scan": one}, indent=1) + "\n")
    print("| scans | start | datalist, s | check, s | record of the inputs, s | 100 crops, s | memory, MiB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        seconds = " | ".join(f"{row[f'{part}_seconds']:.1f}" for part in ("datalist", "check", "record", "crops"))
        print(f"| {row['scans']} | {row['start']} | {seconds} | {row['crops_mib']:.0f} |")
    print(f"\nA scan of {' x '.join(map(str, FULL))} voxels:", json.dumps(one))


if __name__ == "__main__":
    main()
