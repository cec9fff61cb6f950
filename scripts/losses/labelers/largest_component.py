# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..voxelwise import one_channel, required_mask

__all__ = ["LargestComponent"]


class LargestComponent(nn.Module):
    """
    Keeps of a label map the largest connected component of each foreground class, in every item of the batch.

    Voxels are connected through their faces (edges in 2D). Of components of equal size, the first one in the order of
    the voxels is kept. (labels, mask) of any labeller go in, and come out for :class:`~.EntropyFilteredPseudoLoss`.

    It works on the CPU, with scipy: it waits for the device, unlike everything else here, and cannot be compiled.

    The usual clean-up of pseudo-labels of one connected organ, for example in Bai et al., "Bidirectional Copy-Paste for
    Semi-Supervised Medical Image Segmentation", CVPR 2023, https://arxiv.org/abs/2305.00673.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[[[1, 1, 0, 1, 2]]]])
        >>> LargestComponent()(labels)[0].tolist()
        [[[[1, 1, 0, 0, 2]]]]
        >>> kept, mask = LargestComponent(ignore=True)(labels)
        >>> kept.tolist(), mask.tolist()
        ([[[[1, 1, 0, 1, 2]]]], [[[[True, True, True, False, True]]]])
    """

    def __init__(self, classes: Sequence[int] | None = None, ignore: bool = False) -> None:
        """
        Args:
            classes: those to clean up, each at least 1. None takes all but background (class 0).
            ignore: whether a voxel that is removed keeps its label and only leaves the mask, instead of becoming
                background.

        Raises:
            ValueError: When one of ``classes`` is below 1.
        """
        super().__init__()
        if classes is not None and any(label < 1 for label in classes):
            raise ValueError(f"classes must be foreground, at least 1, got {list(classes)}")
        self.classes = None if classes is None else tuple(classes)
        self.ignore = ignore

    @torch.no_grad()
    def forward(self, labels: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            labels: class maps [B, 1, *spatial], values at least 0.
            mask: reliable voxels, bool [B, 1, *spatial]. Defaults to all voxels. Components are those of ``labels``,
                reliable or not.

        Returns:
            The labels, int64 [B, 1, *spatial], and the reliable voxels, bool [B, 1, *spatial].

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        labels = one_channel(labels, labels, "labels")
        mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else required_mask(mask, labels, "mask")
        removed = torch.stack([self._removed(item) for item in labels.cpu()]) if labels.numel() else ~mask & mask
        removed = removed.to(labels.device)
        if self.ignore:
            return labels, mask & ~removed
        return labels.masked_fill(removed, 0), mask

    def _removed(self, labels: torch.Tensor) -> torch.Tensor:
        """Voxels, bool like ``labels`` [1, *spatial], that are in a smaller component of their class."""
        from scipy import ndimage  # here, so that the import of the losses needs torch and monai only

        volume = labels[0].numpy()
        removed = torch.zeros_like(labels, dtype=torch.bool)
        for label, box in enumerate(ndimage.find_objects(volume), start=1):
            if box is None or (self.classes is not None and label not in self.classes):
                continue
            own = volume[box] == label
            components, number = ndimage.label(own)
            if number > 1:
                sizes = torch.bincount(torch.from_numpy(components).flatten().long())[1:]
                smaller = own & (components != sizes.argmax().item() + 1)
                removed[0][box] |= torch.from_numpy(smaller)
        return removed
