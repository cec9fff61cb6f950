# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...step import Pair, Prediction, Step, View
from ..related.heads import Heads
from ..term import Term

__all__ = ["MaskedReconstruction"]


class MaskedReconstruction(Term):
    """Each network's features tell what was in the cubes that are cut out of its image.

    Cubes of the unlabelled images, on a regular grid, are set to 0; a projection of the features gives the image back,
    and the squared error counts in the cubes. He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022,
    arXiv 2111.06377, on the whole image as in Tian et al., SparK, ICLR 2023, arXiv 2301.03580, whose sparse
    convolutions are left out: the networks see zeros.

    Args:
        feature_channels: width of both networks' features.
        in_channels: channels of the image.
        cube: side of a cube in voxels.
        ratio: fraction of the cubes that are cut out, in (0, 1).
        weight: factor on the term.

    Raises:
        ValueError: when ``cube`` or ``ratio`` is out of its range.
    """

    needs_unlabeled = True

    def __init__(
        self, feature_channels: int, in_channels: int = 1, cube: int = 8, ratio: float = 0.6, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        if cube < 1 or not 0 < ratio < 1:
            raise ValueError(f"cube must be at least 1 and ratio in (0, 1), got {cube} and {ratio}.")
        self.heads = Heads(feature_channels, in_channels)
        self.cube = cube
        self.ratio = ratio

    def prepare(self, step: Step) -> View:
        image = step.weak_view
        cells = [-(-length // self.cube) for length in image.shape[2:]]  # rounded up: the last may be cut
        lots = torch.rand(len(image), 1, *cells, device=image.device)
        cut = (lots < self.ratio).float()
        cut = interpolate(cut, scale_factor=self.cube, mode="nearest")
        inside = [slice(None), slice(None), *(slice(length) for length in image.shape[2:])]
        cut = cut[tuple(inside)].bool()
        return View(image.masked_fill(cut, 0.0), (image, cut))

    def forward(self, step: Step) -> Pair[Tensor]:
        a, b = step.on_view(self)
        return Pair(self._loss("a", a, step), self._loss("b", b, step))

    def _loss(self, network: str, prediction: Prediction, step: Step) -> Tensor:
        image, cut = step.views[self].target
        guess = self.heads.project(network, prediction.features).float()
        if guess.shape[2:] != image.shape[2:]:
            guess = interpolate(guess, image.shape[2:], mode="trilinear" if image.dim() == 5 else "bilinear")
        error = (guess - image).square().mean(1, keepdim=True)
        return (error * cut).sum() / cut.sum().clamp(min=1)
