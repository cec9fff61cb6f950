# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...step import Pair, Prediction, PseudoLabels, Step
from ..term import Term

__all__ = ["FeaturePerturbed"]


class FeaturePerturbed(Term):
    """What a teacher says of the weak view is learnt with channels of deep features dropped, there or on a strong view.

    Yang et al., UniMatch, CVPR 2023, arXiv 2208.09910, which drops half of the channels of all that its encoder gives
    the decoder. Here they are dropped at the layer named: a second pass through the networks.

    Args:
        networks: the dual network, whose children ``a`` and ``b`` both have the layer.
        layer: dotted name of the layer whose output is perturbed; of this bundle's networks, the last of the encoder.
        drop: fraction of the channels, in (0, 1).
        views: name of the method's :class:`~.WeakToStrong` whose last strong view is shown; None: the weak view.
        weight: factor on the term.

    Raises:
        ValueError: when a network has no such layer, or ``drop`` is out of its range.
    """

    needs_unlabeled = True
    needs_labeler = True
    weighs = True

    def __init__(
        self,
        networks: nn.Module,
        layer: str = "bottleneck_dropout",
        drop: float = 0.5,
        views: str | None = None,
        weight: float = 0.5,
    ) -> None:
        super().__init__(weight)
        if not 0 < drop < 1:
            raise ValueError(f"drop must be between 0 and 1, got {drop}.")
        for name in "ab":
            if layer not in dict(getattr(networks, name).named_modules()):
                raise ValueError(
                    f"Network {name}, a {type(getattr(networks, name)).__name__}, has no layer {layer!r}: "
                    "name the last of its encoder."
                )
        # in a tuple, so that the networks do not become part of the method and of its state
        self.layers = tuple(getattr(networks, name).get_submodule(layer) for name in "ab")
        self.drop = drop
        self.views = views

    def forward(self, step: Step) -> Pair[Tensor]:
        image, labels = self._shown(step)
        with self._dropping():
            outputs = step.network(image)
        pairs = zip((Prediction(*output) for output in outputs), labels, strict=True)
        return Pair(*((own.counted * -student.log_p.gather(1, own.labels)).mean() for student, own in pairs))

    def _shown(self, step: Step) -> tuple[Tensor, Pair[PseudoLabels]]:
        plain = step.weak_view
        if self.views is None:
            return plain, step.pseudo_labels
        if self.views not in step.terms:
            raise ValueError(f"views must be one of the method's terms, {', '.join(step.terms)}; got {self.views}.")
        view = step.views[step.terms[self.views]]
        last = slice(-len(plain), None)
        return view.image[last], Pair(*(own.map(lambda maps: maps[last]) for own in view.target))

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        handles = [
            layer.register_forward_hook(lambda module, inputs, output: torch.feature_dropout(output, self.drop, True))
            for layer in self.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
