# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..supervised.partial_labels import certain_voxels

__all__ = ["BoxMix", "MixedBatch"]


class MixedBatch(NamedTuple):
    """Mixed images, and what they are to be.

    Attributes:
        image: [N,channels,*S].
        label: class indices [N,1,*S], in part pseudo-labels.
        is_labeled: bool [N,1,*S], True where the labelled image is shown.
        counts: bool [N,1,*S], True where the label was drawn, or the pseudo-label is reliable.
        classes: bool [N,C], the classes that were annotated in the labelled image; None: all.
    """

    image: Tensor
    label: Tensor
    is_labeled: Tensor
    counts: Tensor
    classes: Tensor | None = None

    def relabeled(self, pseudo_label: Tensor, reliable: Tensor) -> MixedBatch:
        """The same images with other pseudo-labels [U,1,*S], and which of them count."""
        count = len(self.image)
        label = torch.where(self.is_labeled, self.label, pseudo_label[:count].long())
        return self._replace(label=label, counts=torch.where(self.is_labeled, self.counts, reliable[:count]))

    @property
    def certain(self) -> Tensor:
        """Where ``label`` is one class, bool [N,1,*S]: it counts, and is no background that may be another class."""
        if self.classes is None:
            return self.counts
        return torch.where(self.is_labeled, certain_voxels(self.label, self.counts, self.classes), self.counts)


class BoxMix:
    """Pastes a box of an unlabelled image into a labelled one, and the other way round, by turns through the batch.

    Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023, arXiv 2305.00673,
    eq. 1 to 4.

    Args:
        ratio: length of the box, as a fraction of the image's along every axis, in (0, 1) (2/3 in the paper).

    Raises:
        ValueError: when ``ratio`` is not in (0, 1).
    """

    def __init__(self, ratio: float = 2 / 3) -> None:
        if not 0 < ratio < 1:
            raise ValueError(f"ratio must be between 0 and 1, got {ratio}.")
        self.ratio = ratio

    def __call__(
        self,
        image: Tensor,
        label: Tensor,
        other: Tensor,
        pseudo_label: Tensor,
        reliable: Tensor,
        drawn: Tensor | None = None,
        classes: Tensor | None = None,
    ) -> MixedBatch:
        """Mix pairs of a labelled and an unlabelled image, as many as the smaller batch has.

        Args:
            image: labelled images [B,channels,*S].
            label: their class indices [B,1,*S].
            other: unlabelled images [U,channels,*S].
            pseudo_label: class indices [U,1,*S].
            reliable: bool [U,1,*S], pseudo-labels that count.
            drawn: bool [B,1,*S], where the label was drawn; None: everywhere.
            classes: bool [B,C], the classes that were annotated, image by image; None: all.

        Returns:
            min(B, U) mixed images; the even ones are labelled outside the box, the odd ones inside.
        """
        count = min(len(image), len(other))
        is_labeled = torch.ones(count, 1, *image.shape[2:], dtype=torch.bool, device=image.device)
        for item in range(count):
            is_labeled[item] = self._random_box(image.shape[2:], image.device) ^ (item % 2 == 0)
        shown = torch.where(is_labeled, image[:count], other[:count])
        counts = is_labeled if drawn is None else is_labeled & drawn[:count]
        mixed = MixedBatch(
            shown, label[:count].long(), is_labeled, counts, None if classes is None else classes[:count]
        )
        return mixed.relabeled(pseudo_label, reliable)

    def _random_box(self, size: torch.Size, device: torch.device) -> Tensor:
        box = torch.zeros(1, *size, dtype=torch.bool, device=device)
        lengths = [max(1, int(length * self.ratio)) for length in size]
        starts = [int(torch.randint(0, full - length + 1, ())) for full, length in zip(size, lengths, strict=True)]
        inside = [slice(None)]
        inside += [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        box[tuple(inside)] = True
        return box
