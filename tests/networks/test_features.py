# SPDX-License-Identifier: Apache-2.0
"""WithFeatures: taps a layer of any network, leaves nothing behind, and explains what it cannot do."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SegResNet, SegResNetDS, UNet
from torch import nn

from scripts.networks import WithFeatures


def unet(**arguments) -> UNet:
    torch.manual_seed(0)
    return UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,), **arguments)


class Unused(nn.Module):
    """Has a layer that its forward does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(1, 2, 1)
        self.spare = nn.Conv2d(1, 2, 1)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.used(x)
        return logits + 0 * self.pooled(logits).sum()


@pytest.mark.parametrize(
    ("network", "layer", "features"),
    [
        (unet(), "model.0", (2, 4, 8, 8)),  # the encoder's first level: a quarter of the pixels
        (SegResNet(2, init_filters=8, in_channels=1, out_channels=2), "up_layers.2", (2, 8, 16, 16)),
    ],
)
def test_it_gives_the_networks_logits_and_the_layers_output(network, layer, features) -> None:
    network.eval()
    subnet = WithFeatures(network, layer)
    x = torch.randn(2, 1, 16, 16)
    logits, tapped = subnet.forward_features(x)
    torch.testing.assert_close(logits, network(x), rtol=0, atol=0)
    torch.testing.assert_close(subnet(x), logits, rtol=0, atol=0)
    assert tapped.shape == features


def test_the_tapped_layer_is_the_one_that_was_named() -> None:
    network = unet().eval()
    x = torch.randn(1, 1, 16, 16)
    _, tapped = WithFeatures(network, "model.0").forward_features(x)
    torch.testing.assert_close(tapped, network.model[0](x))


def test_a_gradient_flows_through_the_features() -> None:
    network = unet()
    WithFeatures(network, "model.0").forward_features(torch.randn(2, 1, 16, 16))[1].square().mean().backward()
    assert all(p.grad is not None for p in network.model[0].parameters())
    assert all(p.grad is None for p in network.model[2].parameters())


def test_no_hook_is_left_behind_even_after_an_error_and_it_scripts() -> None:
    network = unet().eval()
    subnet = WithFeatures(network, "model.0")
    x = torch.randn(1, 1, 16, 16)
    subnet.forward_features(x)
    with pytest.raises(RuntimeError):
        subnet.forward_features(torch.randn(1, 3, 16, 16))
    assert not any(m._forward_hooks for m in network.modules())
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(subnet)(x), network(x))
        torch.testing.assert_close(torch.jit.trace(subnet, x)(x), network(x))


def test_an_unknown_layer_is_an_error_that_suggests_near_names() -> None:
    with pytest.raises(ValueError, match=r"UNet has no layer 'model.O'.*model\.0"):
        WithFeatures(unet(), "model.O")
    with pytest.raises(ValueError, match="no layer ''"):
        WithFeatures(unet(), "")


@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (Unused(), "spare", "'spare' of Unused did not run"),
        (Unused(), "pooled", r"'pooled' of Unused must give features .* 4 axes, but gave shape \(1, 2\)"),
        (
            SegResNetDS(2, init_filters=8, dsdepth=2),
            "encoder.layers.0.blocks",
            "one tensor of logits.*deep supervision",
        ),
    ],
)
def test_what_cannot_be_a_subnet_is_explained(network, layer, message) -> None:
    with pytest.raises(ValueError, match=message):
        WithFeatures(network, layer).forward_features(torch.randn(1, 1, 32, 32))
