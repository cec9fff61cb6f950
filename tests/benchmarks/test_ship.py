# SPDX-License-Identifier: Apache-2.0
"""Shipped weights predict what the run's own do."""

import runpy
from pathlib import Path

import pytest
import torch

from scripts.networks import DualEnsemble, VNet

SHIP = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "ship.py"))["ship"]


def test_half_precision_changes_no_probability_by_a_thousandth(tmp_path):
    torch.manual_seed(0)
    network = DualEnsemble(*(VNet(base_channels=8, norm="batch") for _ in range(2))).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    SHIP(str(tmp_path), str(tmp_path / "shipped.pt"))
    assert (tmp_path / "shipped.pt").stat().st_size < 0.55 * (tmp_path / "model.pt").stat().st_size
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = network(image).softmax(1)
        network.load_state_dict(torch.load(tmp_path / "shipped.pt", weights_only=True))
        assert (network(image).softmax(1) - expected).abs().max() < 1e-3


def test_what_cannot_be_shipped_is_refused_and_leaves_the_shipped_file(tmp_path):
    target = tmp_path / "shipped.pt"
    target.write_text("the former one")
    with pytest.raises(SystemExit, match="no finished run"):
        SHIP(str(tmp_path), str(target))
    torch.save({"weight": torch.tensor([1e6])}, tmp_path / "model.pt")
    with pytest.raises(SystemExit, match="weight exceeds"):
        SHIP(str(tmp_path), str(target))
    torch.save({"weight": torch.zeros(13_000_000)}, tmp_path / "model.pt")
    with pytest.raises(SystemExit, match="26 MB"):
        SHIP(str(tmp_path), str(target))
    assert target.read_text() == "the former one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "shipped.pt"]
