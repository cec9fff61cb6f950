# SPDX-License-Identifier: Apache-2.0
"""Simulate an annotator who corrects proposals by scribbles, and write the table of docs/monailabel.md.

    python benchmarks/scribbles.py --data HIPPOCAMPUS

Needs the environment of MONAI Label. On each test scan (every second of the last 50), the networks of the shipped
weights propose. In each round, for each structure, the annotator draws one stroke into the largest part that is missing
and one into the largest part that is too much: the centre line of that part in the slice where it is largest.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import fire
import nibabel
import numpy as np
import torch
from scipy.ndimage import label as components
from skimage.morphology import skeletonize

BUNDLE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BUNDLE), str(BUNDLE / "monailabel_app")]

from lib.correction.cut import BACKGROUND, FOREGROUND, cut  # noqa: E402
from lib.correction.task import REACH, SMOOTHNESS  # noqa: E402
from lib.models import Model, Predictor  # noqa: E402

BEGIN, END = "<!-- scribbles -->\n", "<!-- /scribbles -->\n"
ROUNDS = 3


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Of two volumes of one structure."""
    return 2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1)


def draw(wrong: np.ndarray) -> np.ndarray:
    """A stroke through the largest part of what is wrong; empty where nothing is."""
    parts, count = components(wrong)
    stroke = np.zeros_like(wrong)
    if count:
        largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
        index = largest.sum((0, 1)).argmax()
        stroke[..., index] = skeletonize(largest[..., index])
    return stroke


def correct(
    probabilities: np.ndarray, image: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...], **options: float
) -> list[dict[str, float]]:
    """Go through all rounds on one scan.

    Returns:
        For each number of rounds, none first: Dice ``cut``; Dice ``painted``, of the proposal with the strokes painted
        in and nothing more; ``strokes`` drawn, ``voxels`` in them; ``seconds`` of the slowest answer.
    """
    options = {"reach": REACH, "smoothness": SMOOTHNESS} | options
    proposal, rows = probabilities.argmax(0), []
    for value in range(1, len(probabilities)):
        found, right = proposal == value, truth == value
        strokes, count, seconds = np.zeros(truth.shape, np.uint8), 0, 0.0
        for number in range(ROUNDS + 1):
            painted = np.where(strokes > 0, strokes == FOREGROUND, proposal == value)
            row = {"cut": dice(found, right), "painted": dice(painted, right)}
            rows.append({"round": number, **row, "strokes": count, "voxels": (strokes > 0).sum(), "seconds": seconds})
            for mark, wrong in ((FOREGROUND, right & ~found), (BACKGROUND, found & ~right)):
                stroke = draw(wrong)
                strokes[stroke] = mark
                count += bool(stroke.any())
            if strokes.any():
                start = time.monotonic()
                found = cut(probabilities[value], found, image, strokes, spacing, **options)
                seconds = max(seconds, time.monotonic() - start)
    return rows


def main(data: str, scans: int = 25, write: bool = True) -> None:
    """Measure.

    Args:
        data: folder with ``images/`` and ``labels/`` of hippocampi.
        scans: how many of the test scans.
        write: whether to put the table into docs/monailabel.md.
    """
    configs = tuple(BUNDLE / name for name in ("configs/inference.json", "configs/datasets/hippocampus.json"))
    model = Model("shipped", BUNDLE / "models" / "model_hippocampus.pt", configs, "shipped")
    networks = Predictor(model, BUNDLE, torch.device("cpu"))
    names = sorted(path.name for path in Path(data, "images").glob("*.nii.gz"))[-50::2][:scans]
    rows, waited = [], []
    for name in names:
        image, label = (nibabel.load(Path(data, kind, name)) for kind in ("images", "labels"))
        start = time.monotonic()
        probabilities = networks.probabilities(str(Path(data, "images", name)))["pred"].numpy()
        waited.append(time.monotonic() - start)
        voxels, truth = (np.asarray(volume.dataobj) for volume in (image, label))
        rows += correct(probabilities, voxels.astype(np.float32), truth, image.header.get_zooms())
        print(name, *(f"{np.mean([r['cut'] for r in rows[-8:] if r['round'] == n]):.3f}" for n in range(ROUNDS + 1)))
    text = table(rows, len(names), waited)
    print(text)
    if write:
        page = BUNDLE / "docs" / "monailabel.md"
        before, rest = page.read_text().split(BEGIN)
        page.write_text(before + BEGIN + text + END + rest.split(END)[1])


def table(rows: list[dict[str, float]], scans: int, waited: list[float]) -> str:
    """The table as Markdown."""
    lines = ["| rounds | strokes a structure | voxels in them | Dice, corrected | Dice, strokes painted only |"]
    lines.append("|---|---|---|---|---|")
    for number in range(ROUNDS + 1):
        chosen = [row for row in rows if row["round"] == number]
        mean = {key: np.mean([row[key] for row in chosen]) for key in ("strokes", "voxels", "cut", "painted")}
        spread = np.std([row["cut"] for row in chosen])
        lines.append(
            f"| {number} | {mean['strokes']:.1f} | {mean['voxels']:.0f} | {mean['cut']:.3f} ± {spread:.3f} "
            f"| {mean['painted']:.3f} |"
        )
    slowest, threads = max(row["seconds"] for row in rows), os.environ.get("OMP_NUM_THREADS", "all")
    lines += [
        "",
        f"{scans} test scans, both structures, ± standard deviation. A correction took {slowest:.2f} s at most; the",
        f"networks, which see a scan once, {np.median(waited):.1f} s (median; threads: {threads}, a shared CPU).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    fire.Fire(main)
