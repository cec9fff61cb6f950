# SPDX-License-Identifier: Apache-2.0
"""Every method trains 2D networks on 2D images."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from .golden import METHODS, ROOT, SMALL, train

SHORT = {"patch_size": [16, 16], "spacing": [1.0, 1.0], "flip_axes": [0, 1], "max_epochs": 2, "epoch_length": 1}


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Three labelled and four unlabelled images: a bright disc with a brighter core, in noise."""
    folder, cases = tmp_path_factory.mktemp("discs"), []
    generator = np.random.default_rng(0)
    for number in range(7):
        distance = np.sqrt(((np.indices((24, 24)) - generator.uniform(9, 15, (2, 1, 1))) ** 2).sum(0))
        label = (distance < 8).astype(np.uint8) + (distance < 4)
        image = (60 + 60 * label + generator.normal(0, 20, label.shape)).clip(0, 255)
        for kind, pixels in (("image", image), ("label", label)):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{kind}{number}.png")
        cases.append({"image": f"image{number}.png", "label": f"label{number}.png"})
    datalist = {
        "labels": SMALL["labels"],
        "training": cases[:3],
        "unlabeled": [{"image": c["image"]} for c in cases[3:]],
    }
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [path for path in METHODS if path.parent == ROOT / "configs" / "methods"], ids=lambda path: path.stem
)
def test_a_step_before_and_one_with_unlabelled_images(method, discs):
    steps = train(method, discs, **SHORT)
    assert len(steps) == 2 and all(math.isfinite(value) for step in steps for value in step.values())
