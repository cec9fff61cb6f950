# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from scripts.inference import ScanDescriptions, farthest_first
from scripts.networks import DualEnsemble, VNet, WithFeatures


def test_each_scan_is_unlike_those_before_it_and_unlike_the_known_ones():
    line = [np.array([x]) for x in (0.0, 1.0, 8.0, 10.0)]
    order = [number for number, _ in farthest_first(line, known=[np.array([0.5])])]
    assert order[:2] == [3, 2]
    assert [number for number, _ in farthest_first(line, known=[np.array([10.0])])][:2] == [0, 2]


def test_distances_are_those_to_the_nearest_scan_before_in_standard_deviations():
    points = np.random.default_rng(0).normal(size=(6, 3)) * [1, 10, 100]
    scaled = (points - points.mean(0)) / points.std(0)
    before = list(scaled[4:])
    for number, distance in farthest_first(points[:4], known=points[4:]):
        assert distance == pytest.approx(min(np.linalg.norm(scaled[number] - one) for one in before))
        before.append(scaled[number])
    assert len(before) == 6


def test_without_known_scans_the_one_wanted_most_is_first_and_nothing_is_near():
    points = [np.zeros(2), np.zeros(2), np.ones(2)]
    found = list(farthest_first(points, weights=[0.2, 0.9, 0.3]))
    assert [number for number, _ in found] == [1, 2, 0]
    assert np.isinf(found[0][1]) and found[2][1] == 0
    assert list(farthest_first([])) == []


def test_a_feature_that_all_scans_share_counts_for_nothing():
    points = [np.array([5.0, x]) for x in (0.0, 1.0, 2.0)]
    assert next(farthest_first(points[1:], known=points[:1]))[0] == 1


def test_a_description_is_the_mean_of_both_networks_features_over_all_windows_of_a_scan():
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(1, 3, 1)
    network = DualEnsemble(
        VNet(base_channels=2, norm="group"), WithFeatures(torch.nn.Sequential(conv), layer="0")
    ).eval()
    descriptions, windows = ScanDescriptions(network), torch.rand(5, 1, 16, 16, 16)
    bottoms = []
    network.a.bottleneck_dropout.register_forward_hook(lambda layer, inputs, output: bottoms.append(output))
    with torch.no_grad():
        for part in (windows[:2], windows[2:]):
            network.a(part), network.b(part)
        found = descriptions.take(windows[0], torch.zeros(2, 4, 4, 4))
        tapped = torch.nn.functional.conv3d(windows, conv.weight, conv.bias).mean((0, 2, 3, 4)).numpy()
        bottom = torch.cat(bottoms).mean((0, 2, 3, 4)).numpy()
        np.testing.assert_allclose(found, np.concatenate([bottom, tapped]), atol=1e-5)
        network.a(windows[:1] * 0), network.b(windows[:1] * 0)
        other = descriptions.take(windows[0], torch.zeros(2, 4, 4, 4))
    np.testing.assert_allclose(other[-3:], conv.bias.detach().numpy(), atol=1e-6)  # it starts anew with each scan


def test_networks_without_features_are_described_by_classes_and_intensities():
    image, probabilities = torch.full((1, 4, 4, 4), 0.1), torch.zeros(2, 4, 4, 4)
    probabilities[0, :1], probabilities[1, 1:] = 1, 1
    found = ScanDescriptions(None).take(image, probabilities)
    np.testing.assert_allclose(np.exp(found[:2]), [0.25, 0.75], rtol=1e-5)
    assert found[2:].sum() == pytest.approx(1) and found[2:].max() == pytest.approx(1)
