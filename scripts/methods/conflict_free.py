# SPDX-License-Identifier: Apache-2.0
"""The unlabelled images teach nothing that the labels contradict."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..losses import ConflictFreeGradient

__all__ = ["ConflictFree"]


class ConflictFree:
    """Takes from the unsupervised losses' gradient the part that opposes the supervised one.

    ``g_s + g_u - min(0, g_u . g_s) / |g_s|^2 g_s`` of :class:`~..losses.ConflictFreeGradient` is a supervised gradient
    that counts more. So the supervised losses get that factor, constant and at least 1, on their gradient, and one
    ordinary backward pass does the rest, with gradient scaling and DistributedDataParallel as ever. The losses' values
    stay as they are. It costs two more backward passes.

    The gradient component of "Decoupled Pseudo-labeling for Semi-Supervised Monocular 3D Object Detection", CVPR 2024,
    arXiv 2403.17387, here over all parameters.

    Args:
        parameters: of the networks that are trained.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.projection = ConflictFreeGradient(parameters)

    def __call__(self, losses: dict[str, Tensor], unsupervised: set[str]) -> dict[str, Tensor]:
        """
        Args:
            losses: weighted, by name.
            unsupervised: names of those that learn from unlabelled images.

        Returns:
            The same losses; a gradient through the supervised ones is larger where there is a conflict.
        """
        supervised = losses.keys() - unsupervised
        if not unsupervised or not supervised:
            return losses
        with torch.autocast(next(iter(losses.values())).device.type, enabled=False):
            totals = (
                torch.stack([losses[name].float() for name in sorted(part)]).sum()
                for part in (supervised, unsupervised)
            )
            conflict = self.projection.conflict(*totals)
        return {
            name: loss if name in unsupervised else loss + conflict * (loss - loss.detach())
            for name, loss in losses.items()
        }
