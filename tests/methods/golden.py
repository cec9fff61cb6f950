# SPDX-License-Identifier: Apache-2.0
"""Ten training steps of a method on a small phantom with three classes: every named loss of every step.

    python -m tests.methods.golden METHOD.json [...]     # write these records anew, after a change that is meant

The record of each method is in golden.json; test_golden.py trains again and compares.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("golden.json")
METHODS = sorted([*ROOT.glob("configs/methods/*.json"), *ROOT.glob("benchmarks/ablation/*.json")])
SMALL = {
    "dataset_name": "golden",
    "labels": {"0": "background", "1": "ball", "2": "core"},
    "patch_size": [16, 16, 16],
    "base_channels": 4,
    "stem_stride": 1,
    "batch_size": 2,
    "unlabeled_batch_size": 2,
    "max_epochs": 2,
    "epoch_length": 5,
    "device": "cpu",
    "tensorboard": False,
    "seed": 3,
}


def write_phantom(folder: Path) -> None:
    """Three labelled and four unlabelled scans: a bright ball with a brighter core, in noise."""
    generator = np.random.default_rng(0)
    cases = []
    for number in range(7):
        grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
        distance = np.sqrt(((grid - generator.uniform(9, 15, (3, 1, 1, 1))) ** 2).sum(0))
        label = (distance < 8).astype(np.uint8) + (distance < 4)
        image = label + generator.normal(0, 0.5, label.shape)
        for kind, voxels in (("image", image.astype(np.float32)), ("label", label.astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"{kind}{number}.nii.gz")
        cases.append({"image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz"})
    unlabeled = [{"image": case["image"]} for case in cases[3:]]
    datalist = {"labels": SMALL["labels"], "training": cases[:3], "unlabeled": unlabeled}
    (folder / "datalist.json").write_text(json.dumps(datalist))


def train(method: Path | None, folder: Path, **changes: object) -> list[dict[str, float]]:
    """Train for ten steps.

    Args:
        method: the JSON, None for the default of train.json.
        folder: where the phantom is (see :func:`write_phantom`) and, while it trains, the run.
        changes: values of the config that are not those of ``SMALL``.

    Returns:
        The losses of each step, their sum among them.
    """
    layers = [ROOT / "configs" / "train.json"]
    if method is not None:
        layers.append(method)
    parser = ConfigParser()
    parser.read_config([str(layer) for layer in layers])
    runs = tempfile.mkdtemp(dir=folder)
    parser.config.update({**SMALL, **changes, "dataset_dir": str(folder), "bundle_root": str(ROOT), "runs_dir": runs})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parser.get_parsed_content("initialize")
        trainer = parser.get_parsed_content("train#trainer")
        steps: list[dict[str, float]] = []

        def note(engine):
            steps.append({name: value.item() for name, value in engine.state.output.items() if value.ndim == 0})

        trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
        trainer.run()
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(runs, ignore_errors=True)  # some 60 MB of weights, for each of more than 40 methods
    return steps


def machine() -> dict[str, str]:
    """What decides how sums are rounded: oneDNN and MKL choose by more than the instructions that PyTorch names."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    first = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in reversed(lines) if ":" in line}
    return {
        "torch": torch.__version__.split("+")[0],
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": first.get("model name") or platform.processor(),
        "instructions": hashlib.sha256(" ".join(sorted(first.get("flags", "").split())).encode()).hexdigest()[:8],
    }


def main(names: list[str]) -> None:
    """Write the records of these methods, or of all."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"methods": {}}
    record["machine"] = machine()
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder))
        wanted = {"train": None} | {path.stem: path for path in METHODS}
        for name, path in wanted.items():
            if not names or name in names:
                record["methods"][name] = train(path, Path(folder))
    steps = ",\n".join(
        f"  {json.dumps(name)}: [\n   " + ",\n   ".join(json.dumps(step) for step in steps) + "\n  ]"
        for name, steps in sorted(record["methods"].items())
    )
    RECORD.write_text(f'{{\n "machine": {json.dumps(record["machine"])},\n "methods": {{\n{steps}\n }}\n}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])
