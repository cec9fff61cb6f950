# SPDX-License-Identifier: Apache-2.0
"""The contract between the trainer and a semi-supervised method, and what the dual-network methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn

from ..networks import DualOutput

__all__ = ["WEAK_VIEW", "Method"]

WEAK_VIEW = "weak"
"""Key of the unlabelled images before their intensities were varied; voxel for voxel what ``image`` shows."""


class Method(nn.Module, ABC):
    """What a training step computes; the trainer does the rest (streams, backward pass, optimizer, events).

    A subclass implements :meth:`forward`. State that must survive a restart (prototypes, a teacher) belongs in buffers
    or submodules: the method is checkpointed with the networks. Views that only one method needs (noise, copy-paste)
    are made inside its ``forward``.

    Attributes:
        statistics: what the last step observed, for the log: ``kept_fraction`` (0-d, fraction of the unlabelled
            voxels used as pseudo-labels), ``pseudo_class_share`` and ``label_class_share`` ([C], fractions). Detached,
            on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.statistics: dict[str, Tensor] = {}

    @abstractmethod
    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        """Compute the named, already weighted losses of one step; the trainer minimises their sum.

        Args:
            network: the dual network, images [B,channels,*S] to a :class:`~..networks.DualOutput`.
            labeled: batch with ``image`` [B,channels,*S] and ``label`` [B,1,*S] (class indices).
            unlabeled: batch with ``image`` [U,channels,*S] and, where the data set's transforms make it, ``weak``
                (:data:`WEAK_VIEW`) of the same shape; or None where the run has no unlabelled scans.
            progress: fraction of the training that is done, in [0, 1].
        """

    def observe_labels(self, label: Tensor, num_classes: int) -> None:
        """Record the class shares among the labelled voxels ([B,1,*S] class indices)."""
        self.statistics["label_class_share"] = class_share(label, num_classes)

    def observe_pseudo_labels(self, labels: Tensor, kept: Tensor, num_classes: int) -> None:
        """Record the class shares of the pseudo-labels [B,1,*S] and the fraction of voxels ``kept`` (same shape)."""
        self.statistics["pseudo_class_share"] = class_share(labels, num_classes)
        self.statistics["kept_fraction"] = kept.detach().float().mean()


def class_share(labels: Tensor, num_classes: int) -> Tensor:
    """Fraction of the voxels of each class in an index map of any shape, as a [C] tensor on its device."""
    return torch.stack([(labels == c).float().mean() for c in range(num_classes)])


def supervised_losses(loss: nn.Module, output: DualOutput, label: Tensor) -> dict[str, Tensor]:
    """Term 1 of every method: ``loss`` of (logits [B,C,*S], label [B,1,*S]) for each of the two networks."""
    return {f"supervised_{name}": loss(member.logits, label) for name, member in zip(("a", "b"), output, strict=True)}


def forward_jointly(
    network: Callable[[Tensor], DualOutput], *batches: Mapping[str, Tensor] | None
) -> list[DualOutput | None]:
    """One forward pass over the images of several batches, so that normalisation layers see all; None stays None."""
    images = [batch[Keys.IMAGE] for batch in batches if batch is not None]
    parts = iter(_split(network(torch.cat(images)), [len(image) for image in images]))
    return [None if batch is None else next(parts) for batch in batches]


def _split(output: DualOutput, counts: list[int]) -> list[DualOutput]:
    """Undo the concatenation of batches of these lengths."""
    members = [
        [type(member)(*pair) for pair in zip(*(t.split(counts) for t in member), strict=True)] for member in output
    ]
    return [DualOutput(*pair) for pair in zip(*members, strict=True)]
