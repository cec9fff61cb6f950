# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.losses import DiceLoss
from monai.networks import one_hot
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..renamed import renamed
from ..supervised.partial_labels import merge_background, partial_cross_entropy
from .box_mix import MixedBatch

__all__ = ["CopyPasteLoss"]


@renamed(__call__={"logits": "input"})
class CopyPasteLoss(nn.Module):
    """Mean of cross entropy and Dice, once over the labelled and once over the pseudo-labelled part of mixed images.

    ``L = l(labelled part) + pseudo_weight * l(pseudo-labelled part)`` with ``l = (CE + Dice) / 2``, each a mean over
    its own voxels only. Voxels that nobody has labelled are in neither; where not all classes were annotated, the
    labelled part is a marginal loss, as in :class:`~.PartialDiceCELoss`.

    Bai et al., CVPR 2023, arXiv 2305.00673, eq. 5 to 7.

    Args:
        pseudo_weight: weight of the pseudo-labelled part (0.5 in the paper).
    """

    def __init__(self, pseudo_weight: float = 0.5) -> None:
        super().__init__()
        self.pseudo_weight = pseudo_weight
        # excluded voxels are zero in prediction and target, and so in every sum of the Dice
        self.dice = DiceLoss(batch=True, squared_pred=True)

    def forward(self, input: Tensor, mixed: MixedBatch, weight: Tensor | None = None) -> Tensor:
        """
        Args:
            input: logits, [N,C,*S].
            mixed: what they are to be.
            weight: how much a pseudo-labelled voxel counts, at least 0, [N,1,*S]; None: 1.

        Returns:
            The loss, 0-d, in float32.
        """
        with torch.autocast(input.device.type, enabled=False):
            logits = input.float()
            voxelwise = cross_entropy(logits, mixed.label.squeeze(1), reduction="none").unsqueeze(1)
            probabilities, target = logits.softmax(1), one_hot(mixed.label, logits.shape[1])
            drawn = (mixed.is_labeled & mixed.counts).to(logits.dtype)
            if mixed.classes is None:
                labeled = self.of_part(voxelwise, probabilities, target, drawn)
            else:
                marginal = partial_cross_entropy(logits.log_softmax(1), mixed.label, mixed.classes)
                labeled = self.of_part(marginal, merge_background(probabilities, mixed.classes), target, drawn)
            counted = (~mixed.is_labeled & mixed.counts).to(logits.dtype)
            counted = counted if weight is None else counted * weight
            pseudo = self.of_part(voxelwise, probabilities, target, counted)
        return labeled + self.pseudo_weight * pseudo

    def of_part(self, cross_entropies: Tensor, probabilities: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The loss ``l`` of one part.

        Args:
            cross_entropies: voxel by voxel, [N,1,*S].
            probabilities: [N,C,*S].
            target: the labels, one-hot, [N,C,*S].
            mask: how much each voxel counts, floating point, [N,1,*S].
        """
        entropy = (cross_entropies * mask).sum() / mask.sum().clamp(min=1)
        return (entropy + self.dice(probabilities * mask, target * mask)) / 2
