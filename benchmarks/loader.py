# SPDX-License-Identifier: Apache-2.0
"""What a training crop costs one core, by turns: with MONAI's transforms and cache as they come, and with ours.

Ours come in two kinds: whole, as on a CPU, and as for a GPU, which varies the intensities that the loader draws.

    python benchmarks/loader.py --data ../shared/data     # about three minutes; tables in Markdown, and a JSON

The scans are two of the left atrium at the paper's recipe, crops of 112 x 112 x 80, and two of the hippocampus at the
cpu recipe. Time is that of this process alone, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, Dataset
from monai.transforms import (
    Compose,
    RandAffined,
    RandCropByLabelClassesd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandSpatialCropd,
    apply_transform,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.data import ClassCountsd, FastRandGaussianNoised, FastRandGaussianSmoothd, RandAffineCropd  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "loader.json"
SETTINGS = (("left_atrium", "paper"), ("hippocampus", "cpu"))
STREAMS = {"labelled": "train", "unlabelled": "train#unlabeled"}
SCANS = 2


def read_config(data: Path, dataset: str, recipe: str, on_device: bool = False) -> ConfigParser:
    """The configs of a data set and a recipe on ``SCANS`` labelled and unlabelled scans.

    ``on_device``: as where a GPU varies the intensities.
    """
    parser = ConfigParser()
    parser.read_config(
        [str(ROOT / "configs" / f"{name}.json") for name in ("train", f"datasets/{dataset}", f"recipes/{recipe}")]
    )
    parser.update({"bundle_root": str(ROOT), "dataset_dir": str(data / dataset), "device": "cpu", "cache": "memory"})
    parser["intensity_on_device"] = on_device
    datalist = parser.get_parsed_content("data")
    parser["train#dataset#data"] = datalist["training"][:SCANS]
    parser["train#unlabeled#dataset#data"] = datalist["unlabeled"][:SCANS]
    return parser


def as_monai(config: ConfigParser, transforms: list) -> list:
    """The transforms of a stream with MONAI's own for ours."""
    labels = config.get_parsed_content("num_classes")
    level = config.get_parsed_content("variation")
    found = []
    for one in transforms:
        if isinstance(one, ClassCountsd):
            continue
        if isinstance(one, RandAffineCropd):
            size = one.spatial_size
            found += [
                RandCropByLabelClassesd(one.keys, one.label_key, size, num_classes=labels, warn=False)
                if one.label_key
                else RandSpatialCropd(one.keys, size, random_size=False),
                RandAffined(
                    one.keys,
                    prob=one.prob,
                    rotate_range=one.affine.rotate_range,
                    scale_range=one.affine.scale_range,
                    mode=["bilinear", "nearest"][: len(one.keys)],
                    padding_mode="border",
                ),
            ]
        elif isinstance(one, FastRandGaussianNoised):
            found.append(RandGaussianNoised("image", prob=level["intensity_prob"], std=level["noise"]))
        elif isinstance(one, FastRandGaussianSmoothd):
            smooth = one.rand_smooth
            found.append(
                RandGaussianSmoothd(
                    "image", smooth.sigma_x, smooth.sigma_y, smooth.sigma_z, prob=level["intensity_prob"]
                )
            )
        else:
            found.append(one)
    return found


def milliseconds(call: Callable[[], Any]) -> float:
    """Time of this process for one call."""
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


def steps(dataset: Dataset, number: int) -> Iterator[tuple[str, float]]:
    """Name and milliseconds of each random transform on the way to one crop."""
    item = dataset._cache[number]
    first = dataset.transform.get_index_of_first(lambda one: type(one).__name__.startswith(("Rand", "FastRand")))
    for transform in dataset.transform.transforms[first:]:
        start = time.process_time()
        item = apply_transform(transform, item)
        yield type(transform).__name__.removesuffix("d"), 1000 * (time.process_time() - start)
        item = item[0] if isinstance(item, list) else item


def measure(data: Path, dataset: str, recipe: str, rounds: int) -> list[dict[str, Any]]:
    """Both kinds of crops of both streams, by turns."""
    found = []
    for name, key in STREAMS.items():
        config = read_config(data, dataset, recipe)
        ours = config.get_parsed_content(f"{key}#dataset")
        transforms = Compose(as_monai(config, ours.transform.transforms))
        drawn = read_config(data, dataset, recipe, on_device=True).get_parsed_content(f"{key}#dataset")
        kinds = {"monai": CacheDataset(ours.data, transforms, progress=False), "ours": ours, "drawn": drawn}
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        parts: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}
        for number in range(rounds + 2):
            for kind, crops in kinds.items():
                taken = milliseconds(lambda crops=crops, number=number: crops[number % SCANS])
                if number >= 2:  # the first two warm up
                    times[kind].append(taken)
                    for part, part_taken in steps(crops, number % SCANS):
                        parts[kind].setdefault(part, []).append(part_taken)
        means = {kind: float(np.mean(taken)) for kind, taken in times.items()}
        found.append(
            {
                "dataset": dataset,
                "recipe": recipe,
                "stream": name,
                "crop": list(config.get_parsed_content("patch_size")),
                "ms": means,
                "ratio": means["monai"] / means["ours"],
                "ratio_drawn": means["monai"] / means["drawn"],
                # A transform that is left out most of the time is in the mean as often as in training.
                "parts_ms": {k: {part: float(np.sum(t)) / rounds for part, t in p.items()} for k, p in parts.items()},
            }
        )
    return found


def tables(rows: list[dict[str, Any]]) -> str:
    """Two tables in Markdown: whole crops, and the parts of the first setting's."""
    lines = [
        "| crop | MONAI's, ms | ours, ms | times as many crops a second | for a GPU, ms | times as many | "
        "crops a second and core |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"{row['dataset']}, {row['recipe']}, {row['stream']}, {' x '.join(map(str, row['crop']))}"
        ms = row["ms"]
        lines.append(
            f"| {name} | {ms['monai']:.1f} | {ms['ours']:.1f} | {row['ratio']:.1f} | {ms['drawn']:.1f} | "
            f"{row['ratio_drawn']:.1f} | {1000 / ms['ours']:.0f} to {1000 / ms['drawn']:.0f} |"
        )
    for row in rows[:2]:
        lines += ["", f"| {row['stream']} crop, {row['recipe']} | MONAI's, ms | ours, ms |", "|---|---|---|"]
        parts = row["parts_ms"]
        for part in dict.fromkeys([*parts["monai"], *parts["ours"]]):
            cells = [f"{parts[kind][part]:.1f}" if part in parts[kind] else "" for kind in ("monai", "ours")]
            lines.append(f"| `{part}` | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=60, help="crops of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for setting in SETTINGS for row in measure(options.data, *setting, options.rounds)]
    machine = {"cpu": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"machine": machine, "rounds": options.rounds, "rows": rows}, indent=1) + "\n")
    print(machine, tables(rows), sep="\n\n")


if __name__ == "__main__":
    main()
