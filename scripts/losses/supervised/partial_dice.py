# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.losses import DiceLoss
from monai.networks import one_hot
from torch import Tensor, nn

from ..voxelwise import check_logits, checked_mask, full_precision, one_channel
from .partial_labels import checked_classes, merge_background

__all__ = ["PartialDiceLoss"]


class PartialDiceLoss(nn.Module):
    r"""
    Dice loss on labels that were not drawn everywhere, or not for every class.

    Voxels outside ``mask`` are zero in prediction and target, and so in every sum of the Dice. Of an image whose
    ``classes`` are not all annotated, the probability of the others is added to that of background before (marginal
    loss), and they have no voxel in it. A class that no image of the batch has annotated adds zero to the mean over
    the classes.

    With ``regions``, unions of classes that may overlap (a tumour and its core), the Dice is theirs in the place of the
    classes': a region has the sum of its classes' probabilities. It is no part of the loss of an image for which one of
    its classes was not annotated.

    With none of these it is :class:`monai.losses.DiceLoss`, bit for bit.

    Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ segmentation", Medical Image
    Analysis 2021, https://arxiv.org/abs/2007.03868. Regions are those of the BraTS challenge, here of exclusive classes
    (ours).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[[9.0, 9.0, -9.0]], [[-9.0, -9.0, 9.0]]]])  # classes 0, 0, 1
        >>> labels, drawn = torch.tensor([[[[0, 1, 1]]]]), torch.tensor([[[[True, False, True]]]])
        >>> loss = PartialDiceLoss()
        >>> round(loss(logits, labels).item(), 4), round(loss(logits, labels, drawn).item(), 4)
        (0.3333, 0.0)
    """

    def __init__(
        self,
        include_background: bool = True,
        squared_pred: bool = False,
        batch: bool = False,
        regions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """
        Args:
            include_background: whether background is one of the classes, as in :class:`monai.losses.DiceLoss`.
            squared_pred: whether to square in the denominator, as there.
            batch: whether to sum over the images of the batch before dividing, as there.
            regions: foreground classes of each region. Defaults to no regions.

        Raises:
            ValueError: When a region is empty, or has a class below 1.
        """
        super().__init__()
        self.regions = [list(one) for one in regions or ()]
        if any(not one or min(one) < 1 for one in self.regions):
            raise ValueError(f"regions must be lists of foreground classes, from 1 on, got {regions}")
        dice = partial(DiceLoss, include_background=include_background, squared_pred=squared_pred, batch=batch)
        self.complete = dice(to_onehot_y=True, softmax=True)
        self.of_probabilities = dice()

    def forward(
        self, input: Tensor, labels: Tensor, mask: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            input: logits [B, C, *spatial].
            labels: ground truth class maps [B, 1, *spatial], values in [0, C), of any value outside ``mask`` that is
                in that range.
            mask: bool [B, 1, *spatial], True where the label was drawn. Defaults to all voxels.
            classes: bool [B, C], True where an image's class was annotated; background always is. Defaults to all.

        Returns:
            The loss, 0-d.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        if mask is None and classes is None and not self.regions:
            return self.complete(input, labels)
        check_logits(input, "input")
        labels, mask = one_channel(labels, input, "labels"), checked_mask(mask, input)
        with torch.autocast(input.device.type, enabled=False):
            p = full_precision(input).softmax(1)
            target = one_hot(labels, p.shape[1], p.dtype)
            if classes is not None:
                p = merge_background(p, checked_classes(classes, input))
            if self.regions:
                p, target = (self._unions(one, classes) for one in (p, target))
            if mask is not None:
                p, target = p.masked_fill(~mask, 0.0), target.masked_fill(~mask, 0.0)
            return self.of_probabilities(p, target)

    def _unions(self, maps: Tensor, classes: Tensor | None) -> Tensor:
        """Background and a map for each region, of maps of the classes; zero where a class of it was not annotated."""
        unions = torch.stack([maps[:, own].sum(1) for own in self.regions], 1)
        if classes is not None:
            known = torch.stack([classes[:, own].all(1) for own in self.regions], 1)
            unions = unions * known.reshape(list(known.shape) + [1] * (maps.dim() - 2))
        return torch.cat([maps[:, :1], unions], 1)
