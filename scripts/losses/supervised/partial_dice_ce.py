# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from ..voxelwise import check_logits, checked_mask, full_precision, one_channel, reduce_voxels
from .partial_dice import PartialDiceLoss
from .partial_labels import checked_classes, partial_cross_entropy

__all__ = ["PartialDiceCELoss"]


class PartialDiceCELoss(nn.Module):
    r"""
    Dice and cross entropy on labels that were not drawn everywhere (scribbles, some slices), or not for every class.

    ``lambda_dice`` times :class:`~.PartialDiceLoss` and ``lambda_ce`` times the mean, over the voxels of ``mask``, of

    .. math::
        -\log p_y \;\text{ for } y > 0, \qquad
        -\log \Big(p_0 + \sum_{c \notin A} p_c\Big) \;\text{ for } y = 0,

    with the classes :math:`A` that were annotated in the voxel's image: an image whose label has the liver alone does
    not say that it has no kidney.

    With ``regions`` the Dice is that of unions of classes, which may overlap; the cross entropy is the classes'.

    With neither ``mask`` nor ``classes`` nor ``regions`` it is :class:`monai.losses.DiceCELoss`, bit for bit.

    Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ segmentation", Medical Image
    Analysis 2021, https://arxiv.org/abs/2007.03868, and for scribbles the partial cross entropy of Tang et al.,
    "Normalized Cut Loss for Weakly-Supervised CNN Segmentation", CVPR 2018. The Dice over the drawn voxels is ours.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[[0.0]], [[0.0]], [[5.0]]]])  # sure of class 2
        >>> loss = PartialDiceCELoss(lambda_dice=0.0)
        >>> only_class_1 = torch.tensor([[True, True, False]])
        >>> labels = torch.tensor([[[[0]]]])
        >>> round(loss(logits, labels).item(), 3), round(loss(logits, labels, classes=only_class_1).item(), 3)
        (5.013, 0.007)
    """

    def __init__(
        self,
        include_background: bool = True,
        squared_pred: bool = False,
        batch: bool = False,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        regions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """
        Args:
            include_background: whether background is a class of the Dice, as in :class:`monai.losses.DiceCELoss`.
            squared_pred: whether to square in the denominator of the Dice, as there.
            batch: whether to sum over the images of the batch before dividing, as there.
            lambda_dice: weight of the Dice loss.
            lambda_ce: weight of the cross entropy.
            regions: foreground classes of each region, as of :class:`~.PartialDiceLoss`. Defaults to no regions.

        Raises:
            ValueError: When a region is empty, or has a class below 1.
        """
        super().__init__()
        self.complete = DiceCELoss(
            include_background,
            to_onehot_y=True,
            softmax=True,
            squared_pred=squared_pred,
            batch=batch,
            lambda_dice=lambda_dice,
            lambda_ce=lambda_ce,
        )
        self.dice = PartialDiceLoss(include_background, squared_pred, batch, regions)
        self.lambda_dice = lambda_dice
        self.lambda_ce = lambda_ce

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
            The loss, 0-d; a zero that backpropagates where nothing was drawn.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        if mask is None and classes is None and not self.dice.regions:
            return self.complete(input, labels)
        check_logits(input, "input")
        labels, mask = one_channel(labels, input, "labels"), checked_mask(mask, input)
        if classes is not None:
            classes = checked_classes(classes, input)
        with torch.autocast(input.device.type, enabled=False):
            log_p = full_precision(input).log_softmax(1)
            cross_entropy = reduce_voxels(partial_cross_entropy(log_p, labels, classes), mask, "mean")
        return self.lambda_dice * self.dice(input, labels, mask, classes) + self.lambda_ce * cross_entropy
