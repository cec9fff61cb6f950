# SPDX-License-Identifier: Apache-2.0
"""A semi-supervised method: a list of terms, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..networks import DualOutput
from .pseudo_labelers import Labeler
from .step import Follower, Pair, PseudoLabels, Step
from .teachers import CrossTeacher, Teacher
from .terms.term import Term

__all__ = ["Method", "class_share"]


class Method(nn.Module):
    """What a training step computes: named, already weighted losses; the trainer does the rest.

    A method is its list of terms. What several terms share, a :class:`Step` computes once: predictions, the teachers'
    predictions, pseudo-labels. State that must survive a restart (prototypes, thresholds) is in buffers and is
    checkpointed with the networks; the moving average that teaches is checkpointed by its owner, the trainer.

    Args:
        terms: name to :class:`~.terms.Term`; None instead of a term leaves it out.
        labeler: makes pseudo-labels of what the teachers predict; terms that ask for ``pseudo_labels`` need it.
        teacher: who teaches whom on the unlabelled images; by default each network, as it is, the other one.
        ramp: callable from progress in [0, 1] to a factor in [0, 1] on all terms that learn from unlabelled images;
            None: 1 from the start.
        warm_up: fraction of the training, from its start, that is supervised: unlabelled images are not looked at. What
            the terms and the ramp see as progress is that of the part after it.
        gradient: changes the losses' gradients, not their values: called with the named losses and the names of those
            that learn from unlabelled images, as :class:`~.ConflictFree`; None: they are summed as they are.

    Attributes:
        statistics: what the last step observed, for the log: ``kept_fraction`` (0-d, fraction of the unlabelled
            voxels used as pseudo-labels), ``pseudo_class_share`` and ``label_class_share`` ([C], fractions, of labels
            among the voxels whose class is known). Detached, on the device.

    Raises:
        ValueError: when there is no term, one needs pseudo-labels and there is no labeler, or the labeler gives them
            weights of which the term knows nothing, or ``warm_up`` is no fraction.
    """

    def __init__(
        self,
        terms: Mapping[str, Term | None],
        labeler: Labeler | None = None,
        teacher: Teacher | None = None,
        ramp: Callable[[float], float] | None = None,
        warm_up: float = 0.0,
        gradient: Callable[[dict[str, Tensor], set[str]], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= warm_up < 1:
            raise ValueError(f"warm_up must be a fraction of the training, at least 0 and below 1, got {warm_up}.")
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})
        if not self.terms:
            raise ValueError("A method needs at least one term.")
        for name, term in self.listed():
            if term.needs_labeler and labeler is None:
                raise ValueError(f"The term {name} needs pseudo-labels: give the method a labeler.")
            if term.needs_labeler and getattr(labeler, "gives_weights", False) and not term.weighs:
                raise ValueError(
                    f"The labeler {type(labeler).__name__} lets pseudo-labels count by weights, and the term {name} "
                    "cannot weigh them: take one of the two out of the method."
                )
        self.labeler = labeler
        self.teacher = CrossTeacher() if teacher is None else teacher
        self.ramp = ramp
        self.warm_up = warm_up
        self.gradient = gradient
        self.statistics: dict[str, Tensor] = {}
        self.followers = [part for part in self.modules() if isinstance(part, Follower)]

    def listed(self) -> Iterable[tuple[str, Term]]:
        """The terms with their names, in the order of the config."""
        return cast(Iterable[tuple[str, Term]], self.terms.items())

    @property
    def ramp_length(self) -> float:
        """Fraction of the training after which pseudo-labels count in full."""
        return self.warm_up + (1 - self.warm_up) * getattr(self.ramp, "length", 0.0)

    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        """Compute the losses of one step; the trainer minimises their sum.

        Args:
            network: the dual network, images [B,channels,*S] to a :class:`~..networks.DualOutput`.
            labeled: batch with ``image`` [B,channels,*S] and ``label`` [B,1,*S] (class indices); where labels are not
                complete also ``classes``, see :class:`Step`.
            unlabeled: batch with ``image`` [U,channels,*S] and, where the data set's transforms make it, ``weak``
                (:data:`WEAK_VIEW`) of the same shape; or None where the run has no unlabelled scans.
            progress: fraction of the training that is done, in [0, 1].

        Raises:
            DataError: when no term applies, as in a first phase without unlabelled scans.
        """
        if progress < self.warm_up:
            unlabeled, progress = None, 0.0
        else:
            progress = (progress - self.warm_up) / (1 - self.warm_up)
        step = Step(self, network, labeled, unlabeled, progress)
        if not step.terms:
            raise DataError(
                "This method learns from unlabelled scans alone, and there are none: give the datalist a section "
                "unlabeled, or choose another method."
            )
        losses: dict[str, Tensor] = {}
        unsupervised: set[str] = set()
        for name, term in step.terms.items():
            ramped = term.is_ramped(step)
            for part, loss in _named(name, term(step)).items():
                losses[part] = (step.ramp if ramped else 1.0) * (term.weight * loss)
                if ramped:
                    unsupervised.add(part)
        if self.training:
            for follower in self.followers:
                follower.follow(step)
        self.statistics = _statistics(step)
        return losses if self.gradient is None else self.gradient(losses, unsupervised)


def class_share(labels: Tensor, num_classes: int, mask: Tensor | None = None) -> Tensor:
    """Fraction of the voxels, or of those of a mask, of each class in an index map, as a [C] tensor on its device."""
    if mask is None:
        return torch.stack([(labels == c).float().mean() for c in range(num_classes)])
    return torch.stack([((labels == c) & mask).sum() for c in range(num_classes)]) / mask.sum().clamp(min=1)


def _named(name: str, losses: Tensor | Pair[Tensor] | dict[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(losses, Tensor):
        return {name: losses}
    return (
        {f"{name}_{network}": loss for network, loss in losses._asdict().items()}
        if isinstance(losses, Pair)
        else losses
    )


@torch.no_grad()
def _statistics(step: Step) -> dict[str, Tensor]:
    found = {"label_class_share": class_share(step.label, step.num_classes, step.certain)}
    taught = step.classes_taught()
    if taught is not None:
        parts: list[PseudoLabels] = [taught.a] if taught.a is taught.b else list(taught)
        found["pseudo_class_share"] = class_share(torch.cat([part.labels for part in parts]), step.num_classes)
        found["kept_fraction"] = torch.cat([part.mask for part in parts]).float().mean()
    return found
