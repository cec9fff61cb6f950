# SPDX-License-Identifier: Apache-2.0
"""Images mixed from a labelled and an unlabelled one, and the loss on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from monai.losses import DiceLoss
from monai.networks import one_hot
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["CopyPaste", "CopyPasteLoss", "MixedBatch"]


class MixedBatch(NamedTuple):
    """Mixed images [N,channels,*S]; labels [N,1,*S], in part pseudo-labels; where they are not; where they count."""

    image: Tensor
    label: Tensor
    is_labeled: Tensor
    counts: Tensor


class CopyPaste:
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
        self, image: Tensor, label: Tensor, other: Tensor, pseudo_label: Tensor, reliable: Tensor | None = None
    ) -> MixedBatch:
        """Mix pairs of a labelled and an unlabelled image, as many as the smaller batch has.

        Args:
            image: labelled images [B,channels,*S].
            label: their class indices [B,1,*S].
            other: unlabelled images [U,channels,*S].
            pseudo_label: class indices [U,1,*S].
            reliable: bool [U,1,*S], pseudo-labels that count; None: all of them.

        Returns:
            min(B, U) mixed images; the even ones are labelled outside the box, the odd ones inside.
        """
        count = min(len(image), len(other))
        is_labeled = torch.ones(count, 1, *image.shape[2:], dtype=torch.bool, device=image.device)
        for item in range(count):
            is_labeled[item] = self._random_box(image.shape[2:], image.device) ^ (item % 2 == 0)
        counts = is_labeled if reliable is None else is_labeled | reliable[:count]
        return MixedBatch(
            torch.where(is_labeled, image[:count], other[:count]),
            torch.where(is_labeled, label[:count].long(), pseudo_label[:count].long()),
            is_labeled,
            torch.ones_like(is_labeled) if reliable is None else counts,
        )

    def _random_box(self, size: torch.Size, device: torch.device) -> Tensor:
        box = torch.zeros(1, *size, dtype=torch.bool, device=device)
        lengths = [max(1, int(length * self.ratio)) for length in size]
        starts = [int(torch.randint(0, full - length + 1, ())) for full, length in zip(size, lengths, strict=True)]
        box[(slice(None), *(slice(s, s + n) for s, n in zip(starts, lengths, strict=True)))] = True
        return box


class CopyPasteLoss(nn.Module):
    """Mean of cross entropy and Dice, once over the labelled and once over the pseudo-labelled part of mixed images.

    ``L = l(labelled part) + pseudo_weight * l(pseudo-labelled part)`` with ``l = (CE + Dice) / 2``, each a mean over
    its own voxels only.

    Bai et al., CVPR 2023, arXiv 2305.00673, eq. 5 to 7.

    Args:
        pseudo_weight: weight of the pseudo-labelled part (0.5 in the paper).
    """

    def __init__(self, pseudo_weight: float = 0.5) -> None:
        super().__init__()
        self.pseudo_weight = pseudo_weight
        # excluded voxels are zero in prediction and target, and so in every sum of the Dice
        self.dice = DiceLoss(batch=True, squared_pred=True)

    def forward(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        """
        Args:
            logits: [N,C,*S].
            mixed: what they are to be.

        Returns:
            The loss, 0-d, in float32.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            voxelwise = cross_entropy(logits, mixed.label.squeeze(1), reduction="none").unsqueeze(1)
            probabilities, target = logits.softmax(1), one_hot(mixed.label, logits.shape[1])
            labeled = self._part(voxelwise, probabilities, target, mixed.is_labeled)
            pseudo = self._part(voxelwise, probabilities, target, ~mixed.is_labeled & mixed.counts)
        return labeled + self.pseudo_weight * pseudo

    def _part(self, cross_entropies: Tensor, probabilities: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        mask = mask.to(probabilities.dtype)
        entropy = (cross_entropies * mask).sum() / mask.sum().clamp(min=1)
        return (entropy + self.dice(probabilities * mask, target * mask)) / 2
