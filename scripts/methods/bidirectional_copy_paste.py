# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from monai.utils import CommonKeys as Keys
from scipy import ndimage
from torch import Tensor, nn

from ..networks import DualOutput
from .copy_paste import CopyPaste, CopyPasteLoss
from .method import Method

__all__ = ["BidirectionalCopyPasteMethod"]


class BidirectionalCopyPasteMethod(Method):
    """Bidirectional copy-paste: each network learns from mixed images, pseudo-labelled by its own moving average.

    For the first part of the training, both images of a pair are labelled. The networks see mixed images only.

    Source: Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023, arXiv
    2305.00673, with the settings of their code for the left atrium. Theirs is one network; here both learn so, apart.

    Args:
        teacher: moving average of the dual network.
        copy_paste: mixes two images.
        loss: loss of (logits, :class:`MixedBatch`).
        pretraining: fraction of the training for which only labelled images are mixed (2000 of 17000 steps in the
            paper).
        largest_component: keep only the largest connected component of each foreground class of the pseudo-labels
            (found on the CPU, which a GPU then waits for).
    """

    def __init__(
        self,
        teacher: nn.Module,
        copy_paste: CopyPaste | None = None,
        loss: CopyPasteLoss | None = None,
        pretraining: float = 2 / 17,
        largest_component: bool = True,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.copy_paste = CopyPaste() if copy_paste is None else copy_paste
        self.loss = CopyPasteLoss() if loss is None else loss
        self.pretraining = pretraining
        self.largest_component = largest_component

    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        image, label = labeled[Keys.IMAGE], labeled[Keys.LABEL]
        pretraining = unlabeled is None or progress < self.pretraining
        if pretraining:
            # pairs of labelled images: each with the one before it in the batch
            partner, pseudo_a, pseudo_b = image.roll(1, 0), label.roll(1, 0), label.roll(1, 0)
        else:
            partner = unlabeled[Keys.IMAGE]
            pseudo_a, pseudo_b = (self._pseudo_labels(output.logits) for output in self._teach(partner))
        mixed_a = self.copy_paste(image, label, partner, pseudo_a)
        labels_b = torch.where(mixed_a.is_labeled, mixed_a.label, pseudo_b[: len(mixed_a.label)].long())
        mixed_b = mixed_a._replace(label=labels_b)  # the same images, with its own teacher's pseudo-labels
        output = network(mixed_a.image)
        num_classes = output.a.logits.shape[1]
        self.observe_labels(label, num_classes)
        if not pretraining:
            self.observe_pseudo_labels(pseudo_a, torch.ones_like(pseudo_a), num_classes)
        return {
            "copy_paste_a": self.loss(output.a.logits, mixed_a),
            "copy_paste_b": self.loss(output.b.logits, mixed_b),
        }

    @torch.no_grad()
    def _teach(self, images: Tensor) -> DualOutput:
        return self.teacher(images)

    def _pseudo_labels(self, logits: Tensor) -> Tensor:
        labels = logits.argmax(1, keepdim=True)
        if not self.largest_component:
            return labels
        kept = torch.zeros_like(labels)
        for c in range(1, logits.shape[1]):
            for item in range(len(labels)):
                kept[item][_largest_component(labels[item] == c)] = c
        return kept


def _largest_component(mask: Tensor) -> Tensor:
    """The largest connected component of a bool mask, found on the CPU."""
    components, _ = ndimage.label(mask.cpu().numpy())
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return torch.from_numpy(components == sizes.argmax()).to(mask.device) & mask
