# SPDX-License-Identifier: Apache-2.0
"""No method waits for the device in a step: the meta device holds no numbers, so whatever reads one raises there."""

from contextlib import nullcontext

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.data.augmentation import on_device
from scripts.methods.terms import Supervised

from .golden import METHODS, ROOT

SIZE = (16, 16, 16)
LARGEST_COMPONENTS = {"bcp", "sdcl"}
"""SciPy finds those, on the host."""


@pytest.fixture
def step(monkeypatch):
    """Runs a step of a method's config, its forward and backward pass, on a device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which the meta device has not,
    monkeypatch.setattr(on_device, "gaussian_noise", lambda shape, *_: torch.empty(shape, device="meta"))  # as this

    def run(method, **changes):
        parser = ConfigParser()
        parser.read_config([str(ROOT / "configs" / "train.json"), str(method)])
        fixed = {
            "bundle_root": str(ROOT),
            "num_classes": 3,
            "patch_size": list(SIZE),
            "base_channels": 4,
            "stem_stride": 1,
        }
        parser.update({**fixed, "device": "cpu", "warm_up": 0, "overlap": 0.5, "flip_axes": [], **changes})
        network = parser.get_parsed_content("network").train()
        method, average = parser.get_parsed_content("method").train(), parser.get_parsed_content("average")
        for module in (network, method, *([] if average is None else [average])):
            module.to("meta")
        images = torch.randn(2, 1, *SIZE, device="meta")
        labels = torch.randint(0, 3, (2, 1, *SIZE), device="meta")
        losses = method(network, {"image": images, "label": labels}, {"image": images, "weak": images.clone()}, 0.5)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        if average is not None:
            average.update_parameters(network)
        return losses

    return run


@pytest.mark.parametrize("method", METHODS, ids=lambda path: path.stem)
def test_a_step_reads_nothing_from_the_device(step, method):
    if method.stem in LARGEST_COMPONENTS:
        with pytest.raises(NotImplementedError, match="meta tensor"):
            step(method)
    else:
        assert all(loss.is_meta for loss in step(method).values())


def test_a_term_that_reads_would_be_found(step, monkeypatch):
    taught = Supervised.forward

    def reads(self, given):
        return type(losses := taught(self, given))(*(loss * float(loss) for loss in losses))

    monkeypatch.setattr(Supervised, "forward", reads)
    with pytest.raises(RuntimeError, match="meta tensor"):
        step(ROOT / "configs" / "methods" / "control.json")
