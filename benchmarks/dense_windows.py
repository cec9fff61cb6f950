# SPDX-License-Identifier: Apache-2.0
"""Windows as dense as the published inference has them, beside those of configs/inference.json.

    python benchmarks/dense_windows.py DATALIST --model left_atrium --section test

UA-MT and what descends from it move a window of 112 x 112 x 80 voxels by 18, 18 and 4, and take the plain mean of the
softmaxes, in float32. All ways see the same scans, one after the other, and are scored on each scan's own grid. Time is
that of the process's threads in the networks and the blending; reading and resampling are left out.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged
from scipy.stats import wilcoxon

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.cli.training.find_model import prediction_configs  # noqa: E402
from scripts.data import LabelOnImaged, load_datalist  # noqa: E402
from scripts.inference import WindowInferer, load_weights  # noqa: E402

PUBLISHED = [1 - 18 / 112, 1 - 18 / 112, 1 - 4 / 80]
"""Overlap of neighbouring windows by axis."""

LABEL = Compose([LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"]), LabelOnImaged("label")])


def dense_windows(
    datalist: str,
    model: str = "left_atrium",
    section: str = "test",
    further: bool = True,
    scans: int | None = None,
    threads: int = 1,
) -> None:
    """Print Dice, its difference to the published way with a paired test, and the share of its time.

    Args:
        datalist: the file.
        model: as for ``dualseg predict``.
        section: of the datalist.
        further: whether to try each with the other's way of blending, too.
        scans: how many of the section's, from its start; default: all.
        threads: of PyTorch.
    """
    torch.set_num_threads(threads)
    configs, [weights] = prediction_configs([model])
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    prepare = parser.get_parsed_content("preprocessing")
    load_weights(parser.get_parsed_content("network_def"), weights)
    plain = copy.deepcopy(parser.get_parsed_content("network_def")).eval()
    default = parser.get_parsed_content("network").eval()
    options = {"roi_size": parser.get_parsed_content("patch_size"), "sw_batch_size": 2}
    overlap, autocast = parser.get_parsed_content("overlap"), parser.get_parsed_content("autocast")
    ways = {
        "published stride, plain mean": (plain, WindowInferer(**options, overlap=PUBLISHED, mode="constant")),
        f"default: overlap {overlap}, Gaussian{f', {autocast}' if autocast else ''}": (
            default,
            parser.get_parsed_content("inferer"),
        ),
    }
    if further:
        ways["published stride, Gaussian"] = (plain, WindowInferer(**options, overlap=PUBLISHED, mode="gaussian"))
        ways[f"overlap {overlap}, plain mean"] = (plain, WindowInferer(**options, overlap=overlap, mode="constant"))
    cases = load_datalist(datalist)[section][:scans]
    dice: dict[str, list[float]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for number, case in enumerate(cases, 1):
        item, label = prepare({"image": case["image"]}), LABEL(dict(case))["label"][0].numpy()
        for name, (network, inferer) in ways.items():
            start = time.process_time()
            with torch.no_grad():
                found = inferer(item["image"].as_tensor()[None], network)[0]
            seconds[name] += time.process_time() - start
            dice[name].append(mean_dice(on_scan(found.softmax(0), item, prepare), label))
        print(f"{number} of {len(cases)}: " + ", ".join(f"{scores[-1]:.3f}" for scores in dice.values()), flush=True)
    first = next(iter(ways))
    print("\n| windows | Dice | to the published | p | time |\n|---|---|---|---|---|")
    for name, scores in dice.items():
        difference = np.subtract(scores, dice[first])
        p = f"{wilcoxon(difference).pvalue:.2g}" if difference.any() else ""
        share = seconds[name] / seconds[first]
        print(f"| {name} | {np.mean(scores):.4f} | {100 * difference.mean():+.2f} points | {p} | {share:.3f} |")


def on_scan(probabilities: torch.Tensor, item: dict[str, Any], prepare: Compose) -> np.ndarray:
    """Classes on the scan's own grid, as inference makes them."""
    item = {**item, "pred": item["image"].__class__(probabilities, meta=item["image"].meta)}
    return Invertd("pred", prepare, "image", nearest_interp=False)(item)["pred"].argmax(0).numpy()


def mean_dice(found: np.ndarray, label: np.ndarray) -> float:
    """Mean over the classes that are in the label."""
    classes = [value for value in np.unique(label) if value]
    return float(
        np.mean([2 * ((found == c) & (label == c)).sum() / ((found == c).sum() + (label == c).sum()) for c in classes])
    )


if __name__ == "__main__":
    fire.Fire(dense_windows)
