# SPDX-License-Identifier: Apache-2.0
"""No method waits for the device in a step: the meta device holds no numbers, so whatever reads one raises there."""

from contextlib import nullcontext

import pytest
import torch
from monai.bundle import ConfigParser
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.data.augmentation import on_device
from scripts.methods.terms import Supervised

from .golden import METHODS, ROOT

SIZE = (16, 16, 16)
LARGEST_COMPONENTS = {"bcp", "sdcl"}
"""SciPy finds those, on the host."""


class NoCopies(TorchDispatchMode):
    """Refuses copies from the host to the device: from memory that is not pinned, they wait as well."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        made = operation(*arguments, **(options or {}))
        given = [one for one in arguments if isinstance(one, torch.Tensor)]
        name = operation.name()
        if name in ("aten::_to_copy", "aten::copy_") and made.is_meta and not given[-1].is_meta:
            raise RuntimeError(f"{name} from the host of {tuple(given[-1].shape)}")
        return made


@pytest.fixture
def step(monkeypatch):
    """Runs two steps of a method's config, their forward and backward passes, on the meta device."""
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
        for mode in (nullcontext(), NoCopies()):  # what is made once may be copied
            with mode:
                weak = images.clone()
                losses = method(network, {"image": images, "label": labels}, {"image": images, "weak": weak}, 0.5)
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
