# SPDX-License-Identifier: Apache-2.0
"""Which scans are alike, in the eyes of the networks, and an order in which no scan follows one that it is like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from ..networks import WithFeatures

__all__ = ["ScanDescriptions", "farthest_first"]

INTENSITY_BINS = 16


class ScanDescriptions:
    """A vector for each scan that networks see; scans with near vectors are alike (ours).

    It holds the most abstract features of each network, averaged over the scan; where there are none, which share of
    the scan each class takes and a histogram of the first channel's normalised intensities.

    Args:
        network: the ensemble, whose children are watched from now on; None: there are no features.
    """

    def __init__(self, network: nn.Module | None) -> None:
        layers = [] if network is None else [_feature_layer(subnet) for subnet in network.children()]
        self.means = [_ScanMean(layer) for layer in layers if layer is not None]

    def take(self, image: Tensor, probabilities: Tensor) -> np.ndarray:
        """Describe what the networks have seen since this was last called: one scan.

        Args:
            image: the scan as the networks saw it [C_in,*S].
            probabilities: what they found [C,*S].
        """
        if self.means:
            return np.concatenate([mean.take() for mean in self.means])
        shares = probabilities.flatten(1).mean(1).clamp_min(1e-6).log()
        histogram = torch.histc(image[0].float().cpu(), INTENSITY_BINS, -3, 3) / image[0].numel()
        return np.concatenate([shares.cpu().numpy(), histogram.numpy()])


def farthest_first(
    descriptions: Sequence[np.ndarray],
    known: Sequence[np.ndarray] = (),
    weights: Sequence[float] | np.ndarray | None = None,
) -> Iterator[tuple[int, float]]:
    """Scans in an order in which each is unlike those before it.

    The next scan is the one whose distance to the nearest scan before it, times its weight, is largest. Features are
    standardised over all scans first.

    Args:
        descriptions: a vector for each scan.
        known: vectors of scans that come before all of them, such as those that have a label.
        weights: how much each scan is wanted, above 0; None: all alike. Without known scans the first is the one that
            is wanted most.

    Yields:
        Number of the scan, and its distance to the nearest scan before it; infinite where there is none.

    Source: the distance is that of Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set
    Approach, ICLR 2018; the weights are ours.
    """
    count = len(descriptions)
    if not count:
        return
    vectors = np.asarray([*descriptions, *known], dtype=float)
    deviation = vectors.std(axis=0)
    vectors = (vectors - vectors.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    vectors, before = vectors[:count], vectors[count:]
    wanted = np.ones(count) if weights is None else np.array(weights, dtype=float)
    distance = cdist(vectors, before).min(axis=1) if len(before) else np.full(count, np.inf)
    for _ in range(count):
        # Copies of scans before are at distance 0: among them the one that is wanted more comes first.
        value = wanted * (np.where(np.isinf(distance), 1, distance) + 1e-6)
        chosen = int(np.argmax(value))
        yield chosen, float(distance[chosen])
        wanted[chosen] = -1
        distance = np.minimum(distance, np.linalg.norm(vectors - vectors[chosen], axis=1))


class _ScanMean:
    """Mean of a layer's output over all voxels and windows of a scan."""

    def __init__(self, layer: nn.Module) -> None:
        self.total, self.windows = 0.0, 0
        layer.register_forward_hook(self._note)

    def _note(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self.total += output.detach().float().flatten(2).mean(2).sum(0).cpu().numpy()
        self.windows += len(output)

    def take(self) -> np.ndarray:
        """The mean [E] since it was last taken."""
        mean = self.total / self.windows
        self.total, self.windows = 0.0, 0
        return mean


def _feature_layer(subnet: nn.Module) -> nn.Module | None:
    """Where a subnet has its most abstract features: the bottom of an encoder-decoder, or the layer that is tapped."""
    if isinstance(subnet, WithFeatures):
        return subnet.network.get_submodule(subnet.layer)
    return getattr(subnet, "bottleneck_dropout", None)
