# SPDX-License-Identifier: Apache-2.0
"""Who teaches whom on the unlabelled images: from a step to the predictions that network a and b learn from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .step import Pair, Prediction, Step

__all__ = ["AverageTeacher", "CrossTeacher", "OneTeacher", "SelfTeacher", "Teacher"]

Teacher = Callable[[Step], Pair[Prediction]]


class CrossTeacher:
    """Each network, as it is, teaches the other on the same view: cross pseudo supervision.

    Chen et al., "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021.
    """

    def __call__(self, step: Step) -> Pair[Prediction]:
        return Pair(step.on_unlabeled.b, step.on_unlabeled.a)


class AverageTeacher:
    """The moving averages of the networks teach; no gradient reaches them.

    Tarvainen and Valpola, "Mean teachers are better role models", NIPS 2017. With ``weak_view`` what was seen well
    teaches what is seen badly (Sohn et al., FixMatch, NeurIPS 2020).

    Args:
        average: moving average of the dual network, e.g. ``MovingAverage(...).module``.
        teaches: {``"own"``, ``"other"``} whether the average of a teaches a or b.
        weak_view: show the teachers the images before their intensities were varied, where there are such.
        dropout: let the teachers drop out, and their normalisation layers take the batch's statistics.
        noise: standard deviation of Gaussian noise on the teachers' images, in units of the normalised image; it is
            clipped at twice this value.

    Raises:
        ValueError: when ``teaches`` is none of the options.
    """

    def __init__(
        self,
        average: nn.Module,
        teaches: str = "own",
        weak_view: bool = True,
        dropout: bool = False,
        noise: float = 0.0,
    ) -> None:
        if teaches not in ("own", "other"):
            raise ValueError(f"teaches must be 'own' or 'other', got {teaches!r}.")
        self.average = average
        self.teaches = teaches
        self.weak_view = weak_view
        self.dropout = dropout
        self.noise = noise

    @torch.no_grad()
    def __call__(self, step: Step) -> Pair[Prediction]:
        self.average.train(self.dropout)
        image = step.weak_view if self.weak_view else step.unlabeled_image
        said = self.average(self._noisy(image))
        a, b = (Prediction(logits, features, name) for name, (logits, features) in zip("ab", said, strict=True))
        return Pair(a, b) if self.teaches == "own" else Pair(b, a)

    def _noisy(self, image: Tensor) -> Tensor:
        if self.noise == 0:
            return image
        return image + (self.noise * torch.randn_like(image)).clamp(-2 * self.noise, 2 * self.noise)


class SelfTeacher:
    """Each network, as it is, teaches itself by what it says of the weak view; no gradient reaches what it says.

    Sohn et al., FixMatch, NeurIPS 2020, arXiv 2001.07685. It asks the networks in a pass of its own, so terms may have
    its answer before the step's forward pass; they drop out as in training.
    """

    @torch.no_grad()
    def __call__(self, step: Step) -> Pair[Prediction]:
        said = Pair(*(Prediction(*output) for output in step.network(step.weak_view)))
        # Autocast keeps the weights that it has cast. Cast here, they have no gradient: the next pass needs new ones.
        torch.clear_autocast_cache()
        return said


class OneTeacher:
    """What teaches one network teaches both.

    Args:
        teacher: of both networks.
        network: {``"a"``, ``"b"``} whose teacher is kept.

    Raises:
        ValueError: when ``network`` is none of the options.
    """

    def __init__(self, teacher: Teacher, network: str = "b") -> None:
        if network not in ("a", "b"):
            raise ValueError(f"network must be 'a' or 'b', got {network!r}.")
        self.teacher = teacher
        self.network = network

    def __call__(self, step: Step) -> Pair[Prediction]:
        kept = getattr(self.teacher(step), self.network)
        return Pair(kept, kept)
