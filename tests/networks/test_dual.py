# SPDX-License-Identifier: Apache-2.0
"""DualNetwork and DualEnsemble: one set of weights, one tensor out, in Python, TorchScript and traces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets import SegResNet, UNet
from torch import nn

from scripts.networks import DualEnsemble, DualNetwork, ResNetVNet, VNet, WithFeatures


class Logits(nn.Module):
    """Gives logits of its own, whatever the image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def pair(**arguments) -> tuple[nn.Module, nn.Module]:
    return ResNetVNet(base_channels=2, **arguments), VNet(base_channels=2, **arguments)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_forward_gives_each_subnets_logits_and_features() -> None:
    network = DualNetwork(*pair(out_channels=3)).eval()
    x = torch.randn(2, 1, 16, 32, 16)
    output = network(x)
    for name in ("a", "b"):
        logits, features = getattr(network, name).forward_features(x)
        torch.testing.assert_close(getattr(output, name).logits, logits)
        torch.testing.assert_close(getattr(output, name).features, features)
    assert output._fields == ("a", "b") and output.a._fields == ("logits", "features")
    assert not torch.allclose(output.a.logits, output.b.logits)


def test_a_loss_on_one_subnet_moves_only_that_subnet() -> None:
    network = DualNetwork(*pair())
    network(torch.randn(2, 1, 32, 32, 32)).a.logits.square().mean().backward()
    assert all(p.grad is not None for p in network.a.parameters())
    assert all(p.grad is None for p in network.b.parameters())


def test_weights_of_the_trained_pair_load_into_the_ensemble() -> None:
    trained = DualNetwork(*pair()).eval()
    ensemble = DualEnsemble(*pair()).eval()
    assert trained.state_dict().keys() == ensemble.state_dict().keys()
    ensemble.load_state_dict(trained.state_dict())
    x = torch.randn(1, 1, 32, 16, 16)
    output = trained(x)
    expected = (output.a.logits.softmax(1) + output.b.logits.softmax(1)) / 2
    torch.testing.assert_close(ensemble(x).softmax(1), expected)
    logits_a, logits_b, log_mean = ensemble.members(x)
    torch.testing.assert_close(logits_a, output.a.logits)
    torch.testing.assert_close(logits_b, output.b.logits)
    torch.testing.assert_close(log_mean, ensemble(x))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_output_is_the_logarithm_of_the_mean_softmax(classes) -> None:
    generator = np.random.default_rng(classes)
    a, b = (generator.normal(scale=4, size=(2, classes, 3, 4, 5)) for _ in range(2))
    softmax = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (a, b)]
    ensemble = DualEnsemble(Logits(torch.tensor(a).float()), Logits(torch.tensor(b).float()))
    actual = ensemble(torch.zeros(1))
    np.testing.assert_allclose(actual.numpy(), np.log(sum(softmax) / 2), atol=2e-5)
    # The class of the mean probability, which the class of the mean logit is not.
    assert np.array_equal(actual.argmax(1).numpy(), sum(softmax).argmax(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_logits_stay_finite_and_the_output_is_float32(dtype) -> None:
    a = torch.tensor([1e3, -1e3, 0.0]).reshape(1, 3, 1, 1).to(dtype)
    b = torch.tensor([-1e3, 1e3, 0.0]).reshape(1, 3, 1, 1).to(dtype)
    log_mean = DualEnsemble(Logits(a), Logits(b))(torch.zeros(1))
    assert log_mean.dtype == torch.float32
    assert log_mean.isfinite().all()
    torch.testing.assert_close(log_mean.exp().flatten(), torch.tensor([0.5, 0.5, 0.0]))


@pytest.mark.parametrize(("spatial_dims", "stem_stride"), [(3, 1), (3, 2), (2, 1)])
def test_the_ensemble_scripts_and_traces(spatial_dims, stem_stride, tmp_path) -> None:
    ensemble = DualEnsemble(*pair(spatial_dims=spatial_dims, out_channels=3, stem_stride=stem_stride)).eval()
    x = torch.randn(2, 1, *[32, 64, 32][:spatial_dims])
    with torch.no_grad(), torch.jit.optimized_execution(False):  # optimising a graph that runs once costs seconds
        expected = ensemble(x)
        scripted = torch.jit.script(ensemble)
        traced = torch.jit.trace(ensemble, x[:1, ..., :32], check_trace=False)
        torch.jit.save(scripted, tmp_path / "model.ts")
        for module in (scripted, traced, torch.jit.load(tmp_path / "model.ts")):
            torch.testing.assert_close(module(x), expected)
        with pytest.raises(torch.jit.Error, match=rf"multiple of {16 * stem_stride}.*40 is not"):
            scripted(torch.zeros(1, 1, *[32, 40, 32][:spatial_dims]))


def test_the_paper_sized_default_ensemble_scripts() -> None:
    ensemble = DualEnsemble(ResNetVNet(), VNet()).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad(), torch.jit.optimized_execution(False):
        torch.testing.assert_close(torch.jit.script(ensemble)(x), ensemble(x))


def test_monai_networks_can_be_the_pair() -> None:
    def subnets() -> tuple[nn.Module, nn.Module]:
        a = SegResNet(spatial_dims=3, init_filters=8, in_channels=1, out_channels=3, dropout_prob=0.2)
        b = UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=(4, 8), strides=(2,))
        return WithFeatures(a, "up_layers.2"), WithFeatures(b, "model.0")

    network = DualNetwork(*subnets())
    x = torch.randn(2, 1, 16, 16, 16)
    output = network(x)
    assert output.a.features.shape == (2, 8, 16, 16, 16)
    assert output.b.features.shape == (2, 4, 8, 8, 8)
    ensemble = DualEnsemble(*subnets())
    ensemble.load_state_dict(network.state_dict())
    with torch.no_grad(), torch.jit.optimized_execution(False):
        torch.testing.assert_close(torch.jit.script(ensemble.eval())(x), ensemble(x))


def test_a_subnet_without_features_is_an_error_that_names_the_remedy() -> None:
    with pytest.raises(ValueError, match="Subnet b, a UNet, .*WithFeatures"):
        DualNetwork(VNet(base_channels=2), UNet(3, 1, 2, channels=(4, 8), strides=(2,)))


def test_one_network_twice_is_an_error() -> None:
    network = VNet(base_channels=2)
    with pytest.raises(ValueError, match="same object"):
        DualNetwork(network, network)
