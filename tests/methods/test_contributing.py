# SPDX-License-Identifier: Apache-2.0
"""The term that CONTRIBUTING.md shows is short, and trains as it says."""

import json
import re

import numpy as np
import pytest
import torch

from scripts.methods import Method, terms
from scripts.methods.terms import Supervised
from scripts.networks import DualNetwork, VNet

from .make import CLASSES, make_method, supervised_loss


@pytest.fixture
def blocks(bundle_root):
    """The Python and the JSON of the section on terms."""
    section = (bundle_root / "CONTRIBUTING.md").read_text().split("## Add a term of a method")[1].split("\n## ")[0]
    return [re.search(rf"```{language}\n(.*?)```", section, re.S).group(1) for language in ("python", "json")]


def test_the_example_is_a_term_of_at_most_thirty_lines_that_trains_both_networks(blocks, monkeypatch):
    assert len(blocks[0].splitlines()) <= 30
    scope = {"__name__": "example"}
    exec(compile(blocks[0], "CONTRIBUTING.md", "exec"), scope)
    monkeypatch.setattr(terms, "EntropyMinimisation", scope["EntropyMinimisation"], raising=False)
    ((key, term),) = json.loads(blocks[1]).items()
    method = make_method("supervised", **{key.removeprefix("method#").replace("#", "__"): term})
    torch.manual_seed(0)
    network = DualNetwork(
        *(VNet(out_channels=CLASSES, base_channels=4, norm="instance", dropout=0.0) for _ in range(2))
    )
    labeled = {"image": torch.randn(2, 1, 32, 32, 32), "label": torch.randint(0, CLASSES, (2, 1, 32, 32, 32))}
    unlabeled = {"image": torch.randn(1, 1, 32, 32, 32)}
    losses = method(network, labeled, unlabeled, progress=0.5)
    output = network(torch.cat([labeled["image"], unlabeled["image"]]))
    for name in "ab":
        p = getattr(output, name).logits[2:].double().softmax(1).detach().numpy()
        expected = 0.1 * -(p * np.log(p)).sum(1).mean()
        assert losses[f"entropy_{name}"].item() == pytest.approx(expected, rel=1e-5)
    losses["entropy_a"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.a.parameters())
    assert all(p.grad is None for p in network.b.parameters())
    without = Method({"supervised": Supervised(supervised_loss()), "entropy": method.terms["entropy"]})
    assert set(without(network, labeled, None, progress=0.5)) == {"supervised_a", "supervised_b"}
