# SPDX-License-Identifier: Apache-2.0
"""VNet and ResNetVNet: their size, what they take, what they give, and that every parameter learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.networks import ResNetVNet, VNet

SUBNETS = [VNet, ResNetVNet]
NORMS = ["batch", "group", "instance", ("group", {"num_groups": 2}), ("instance", {"affine": False})]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("subnet", "published", "exact"), [(VNet, 9.45, 9_448_866), (ResNetVNet, 17.93, 17_930_354)])
def test_the_paper_sized_network_has_the_published_number_of_parameters(subnet, published, exact) -> None:
    network = subnet(in_channels=1, out_channels=2, base_channels=16)
    assert parameters(network) == exact
    assert round(exact / 1e6, 2) == published


def test_the_docstrings_split_of_the_count_is_right() -> None:
    for subnet, encoder in ((VNet, 7_376_896), (ResNetVNet, 15_858_384)):
        network = subnet()
        assert parameters(network.encoder) == encoder
        assert parameters(network) - encoder == 2_071_970


@pytest.mark.parametrize("subnet", SUBNETS)
def test_stages_have_the_published_depths(subnet) -> None:
    """The counts alone would not notice two layers of equal size swapped between levels."""
    wide = [
        [m for m in level.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3)]
        for level in subnet().encoder
    ]
    assert [len(level) for level in wide] == ([1, 2, 3, 3, 3] if subnet is VNet else [0, 6, 8, 12, 6])
    assert [m.out_channels for level in wide[1:] for m in level[:1]] == [32, 64, 128, 256]


@pytest.mark.parametrize("subnet", SUBNETS)
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize(
    ("in_channels", "classes", "size"),
    [(1, 2, (32, 32, 64)), (4, 5, (64, 32, 32)), (1, 3, (32, 96)), (3, 2, (64, 64))],  # 3D and 2D, odd ratios
)
def test_logits_have_the_inputs_size_and_features_the_stated_one(
    subnet, stem_stride, in_channels, classes, size
) -> None:
    network = subnet(len(size), in_channels, classes, base_channels=4, stem_stride=stem_stride).eval()
    x = images(2, in_channels, *size)
    logits, features = network.forward_features(x)
    assert logits.shape == (2, classes, *size)
    assert features.shape == (2, network.feature_channels, *(length // stem_stride for length in size))
    assert network.size_multiple == 16 * stem_stride
    torch.testing.assert_close(network(x), logits, rtol=0, atol=0)


@pytest.mark.parametrize("subnet", SUBNETS)
def test_features_are_what_dropout_and_classifier_turn_into_logits(subnet) -> None:
    network = subnet(base_channels=4, stem_stride=2).eval()
    logits, features = network.forward_features(images(1, 1, 32, 32, 32))
    torch.testing.assert_close(network.classifier(features), logits)
    network.train()
    _, features = network.forward_features(images(2, 1, 32, 32, 32))
    dropped = (features.flatten(2) == 0).all(dim=2)
    assert not dropped.any(), "features must be taken before dropout, which would zero about half of the channels"


@pytest.mark.parametrize("subnet", SUBNETS)
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_gradient_reaches_every_parameter_of_every_norm(subnet, stem_stride, norm) -> None:
    network = subnet(base_channels=4, norm=norm, dropout=0.0, stem_stride=stem_stride)
    network(images(2, 1, 32, 32, 64)).square().mean().backward()
    # A bias before a norm that centres its channels has no effect; its gradient is rounding, and only has to be there.
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    dead = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    weights = [n for n, p in network.named_parameters() if n.endswith("weight") and not p.grad.abs().sum() > 0]
    assert not missing and not dead and not weights


@pytest.mark.parametrize("subnet", SUBNETS)
@pytest.mark.parametrize("base_channels", [1, 3, 8, 12, 20])
def test_group_norm_finds_a_number_of_groups_for_any_width(subnet, base_channels) -> None:
    network = subnet(base_channels=base_channels, norm="group")
    groups = {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {{1: 1, 3: 1, 8: 8, 12: 4, 20: 4}[base_channels]}


@pytest.mark.parametrize("subnet", SUBNETS)
def test_the_norm_is_the_one_asked_for_and_affine(subnet) -> None:
    for norm, kind in (("batch", nn.BatchNorm3d), ("INSTANCE", nn.InstanceNorm3d), (["group", {}], nn.GroupNorm)):
        norms = [m for m in subnet(base_channels=8, norm=norm).modules() if "Norm" in type(m).__name__]
        assert norms and all(isinstance(m, kind) and m.weight is not None for m in norms)
    plain = subnet(base_channels=8, norm=("instance", {"affine": False}))
    assert all(m.weight is None for m in plain.modules() if isinstance(m, nn.InstanceNorm3d))


@pytest.mark.parametrize("subnet", SUBNETS)
def test_dropout_drops_whole_channels_in_training_and_nothing_in_evaluation(subnet) -> None:
    network = subnet(base_channels=4, norm="instance", dropout=0.5)
    x = images(1, 1, 32, 32, 32)
    network.train()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    places = [m for m in network.modules() if isinstance(m, nn.Dropout3d) and m.p == 0.5]
    assert len(places) == (2 if subnet is VNet else 1)
    off = subnet(base_channels=4, norm="instance", dropout=0.0).train()
    assert torch.equal(off(x), off(x))


@pytest.mark.parametrize("subnet", SUBNETS)
def test_skips_carry_every_level_to_the_logits(subnet) -> None:
    """Each encoder level, silenced alone, changes the logits: no skip is lost or overwritten in place."""
    network = subnet(base_channels=4, norm="instance", dropout=0.0).eval()
    x = images(1, 1, 32, 32, 32)
    expected = network(x)
    seen = []
    for level in network.encoder[:-1]:
        outputs = []
        keep = level.register_forward_hook(lambda module, inputs, output, outputs=outputs: outputs.append(output))
        network(x)
        keep.remove()
        seen.append(outputs[0])
    x_deep, skips = network.encoder[-1](seen[-1]), seen[::-1]
    for up, block, skip in zip(network.ups, network.blocks, skips, strict=True):
        x_deep = block(up(x_deep) + skip)
    torch.testing.assert_close(network.classifier(x_deep), expected)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_upsampling_classifier_starts_as_classification_and_linear_interpolation(spatial_dims) -> None:
    network = VNet(spatial_dims, base_channels=4, out_channels=3, stem_stride=2)
    features = images(1, 4, *[6] * spatial_dims)
    mode = "bilinear" if spatial_dims == 2 else "trilinear"
    logits = network.classifier(features) - network.classifier.bias.reshape(-1, *[1] * spatial_dims)
    # Along each axis the linear kernel gives 1/4 and 3/4 to the two nearest; the four taps of an axis sum to 2.
    weight = network.classifier.weight.flatten(2).sum(2) / 2**spatial_dims
    coarse = torch.einsum("bi...,io->bo...", features, weight)
    expected = nn.functional.interpolate(coarse, scale_factor=2, mode=mode, align_corners=False)
    inner = (
        ...,
        *[slice(1, -1)] * spatial_dims,
    )  # interpolate repeats the border where a transposed convolution has zeros
    torch.testing.assert_close(logits[inner], expected[inner])
    assert weight.abs().max() > 0.05


@pytest.mark.parametrize("subnet", SUBNETS)
@pytest.mark.parametrize(("stem_stride", "size", "bad"), [(1, (32, 40, 16), 40), (2, (64, 32, 48), 48)])
def test_a_size_it_cannot_take_is_an_error_naming_multiple_and_size(subnet, stem_stride, size, bad) -> None:
    network = subnet(base_channels=2, stem_stride=stem_stride)
    with pytest.raises(
        ValueError, match=rf"multiple of {16 * stem_stride}\b.*\[{', '.join(map(str, size))}\]: {bad} is not"
    ):
        network(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("subnet", SUBNETS)
@pytest.mark.parametrize(
    ("argument", "value"),
    [("spatial_dims", 1), ("base_channels", 0), ("dropout", 1.0), ("dropout", -0.1), ("stem_stride", 3)],
)
def test_an_argument_out_of_range_is_an_error_naming_it(subnet, argument, value) -> None:
    with pytest.raises(ValueError, match=rf"{argument}.*{value}"):
        subnet(**{argument: value})


@pytest.mark.parametrize("subnet", [VNet, ResNetVNet])
def test_thick_slices_are_halved_as_often_as_the_strides_say(subnet) -> None:
    options = {"base_channels": 4, "norm": "group", "stem_stride": [2, 2, 1], "strides": [[2, 2, 1], [2, 2, 1], 2, 2]}
    network = subnet(**options).eval()
    assert network.size_multiple == (32, 32, 4)
    logits, features = network.forward_features(torch.randn(1, 1, 32, 64, 8))
    assert logits.shape == (1, 2, 32, 64, 8) and features.shape == (1, 4, 16, 32, 8)
    with pytest.raises(ValueError, match=r"multiple of \[32, 32, 4\] voxels, axis by axis.*\[32, 60, 8\]: 60 is not"):
        network(torch.zeros(1, 1, 32, 60, 8))
    scripted = torch.jit.script(network)
    image = torch.randn(1, 1, 32, 32, 4)
    torch.testing.assert_close(scripted(image), network(image))


@pytest.mark.parametrize("subnet", [VNet, ResNetVNet])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strides": [2, 2, 2]}, "one number or 4 entries"),
        ({"strides": [2, 2, 2, [2, 2]]}, "an entry of strides must be 1 or 2, or 3 such numbers"),
        ({"strides": [3, 2, 2, 2]}, "an entry of strides must be 1 or 2"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2"),
    ],
)
def test_impossible_strides_are_refused(subnet, options, told) -> None:
    with pytest.raises(ValueError, match=told):
        subnet(**options)
