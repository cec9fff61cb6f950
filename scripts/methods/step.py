# SPDX-License-Identifier: Apache-2.0
"""What the terms of one training step may see; each thing is computed when it is first asked for, and once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch
from monai.utils import CommonKeys as Keys
from torch import Tensor

from ..annotation import CLASSES, IGNORED
from ..losses import predict
from ..losses.supervised.partial_labels import certain_voxels
from ..networks import DualOutput

if TYPE_CHECKING:
    from .method import Method
    from .terms.term import Term

__all__ = ["WEAK_VIEW", "Follower", "Pair", "Prediction", "PseudoLabels", "Step", "View"]

WEAK_VIEW = "weak"
"""Key of the unlabelled images before their intensities were varied; voxel for voxel what ``image`` shows."""

PLACEHOLDER = 0
"""The class that stands in a label where nothing was drawn; no loss may depend on it."""

T = TypeVar("T")


class Pair(NamedTuple, Generic[T]):
    """Something of network a, and the same of network b."""

    a: T
    b: T


class PseudoLabels(NamedTuple):
    """Class indices, int64 [U,1,*S], the voxels that count, bool [U,1,*S], and how much they do.

    ``weight`` [U,1,*S], at least 0; None: 1 everywhere. A labeler that gives weights says so by ``gives_weights``.
    """

    labels: Tensor
    mask: Tensor
    weight: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """How much each voxel counts, [U,1,*S]: the mask, bool, or the weights where it is True, and 0."""
        return self.mask if self.weight is None else self.weight.where(self.mask, 0.0)

    def map(self, change: Callable[[Tensor], Tensor]) -> PseudoLabels:
        """The same with ``change`` done to each of the maps."""
        weight = None if self.weight is None else change(self.weight)
        return PseudoLabels(change(self.labels), change(self.mask), weight)


class View(NamedTuple):
    """Images [N,channels,*S] of a term's own, beside the two streams, and what it has to recall of them."""

    image: Tensor
    target: Any


class Prediction:
    """What one network says of some images.

    Args:
        logits: [N,C,*S].
        features: [N,E,*S'], where a network gave them; to ask for what it did not give is a ValueError.
        network: {``"a"``, ``"b"``} whose moving average says it; None: it is not an average's.

    Attributes:
        log_p: log-probabilities [N,C,*S], at least float32; with ``p`` the one softmax of a network and step.
        p: probabilities.
        entropy: in nats, [N,1,*S], without a gradient.
    """

    def __init__(self, logits: Tensor, features: Tensor | None = None, network: str | None = None) -> None:
        self.logits = logits
        self.network = network
        self._features = features

    @property
    def features(self) -> Tensor:
        if self._features is None:
            raise ValueError("The network gave no features of these images.")
        return self._features

    @cached_property
    def _said(self) -> tuple[Tensor, Tensor, Tensor]:
        return predict(self.logits)

    @property
    def log_p(self) -> Tensor:
        return self._said[0]

    @property
    def p(self) -> Tensor:
        return self._said[1]

    @property
    def entropy(self) -> Tensor:
        return self._said[2]

    def agreement(self, teacher: Prediction) -> Tensor:
        """``exp(-KL(t || p))`` [N,1,*S] of this student p and its teacher t, of whom the first N images are looked at.

        The weight of term 3 of the method (Lu et al., arXiv 2509.13084), without a gradient.
        """
        count = len(self.logits)
        # not under no_grad: what is kept of a prediction would have lost its gradient for the losses that come after
        cross_entropy = -(teacher.p.detach()[:count] * self.log_p.detach()).sum(1, keepdim=True)
        return torch.exp(teacher.entropy[:count] - cross_entropy)


class Follower(ABC):
    """A part of a method, such as a labeler, that learns from the predictions of each step after the terms have (ours).

    It follows in the supervised part as well. State that must survive a restart is in buffers.

    Attributes:
        reads: streams on which the networks must have been run, as :class:`~.terms.Term`'s; those that may be missing
            from a step do not belong here.
    """

    reads: frozenset[str] = frozenset()

    @abstractmethod
    def follow(self, step: Step) -> None:
        """Learn from a training step, without a gradient."""


class Step:
    """One training step: two batches, both networks' predictions on them, their teachers, the pseudo-labels (ours).

    Args:
        method: whose terms look at it.
        network: the dual network, images [B,channels,*S] to a :class:`~..networks.DualOutput`.
        labeled: batch with ``image`` [B,channels,*S] and ``label`` [B,1,*S] (class indices); where labels are not
            complete also ``classes`` bool [B,C] (:data:`~..annotation.CLASSES`), and then a voxel of the label may be
            :data:`~..annotation.IGNORED`.
        unlabeled: batch with ``image`` [U,channels,*S] and perhaps ``weak`` (:data:`WEAK_VIEW`); or None.
        progress: fraction of the training that is done, in [0, 1].

    Attributes:
        label: class indices [B,1,*S]; meaningless where nothing was drawn, so read it with ``drawn`` or ``certain``.
        drawn: bool [B,1,*S], voxels that the annotator gave a value; None: all.
        classes: bool [B,C], classes that were annotated, image by image; the others may be where ``label`` is 0. None:
            all. For losses that know of it (marginal losses), with ``drawn``.
        ramp: factor in [0, 1] on the terms that learn from unlabelled images.
        terms: the method's terms that apply now.
        observed: the last pseudo-labels, for the log; None before there are any.
    """

    def __init__(
        self,
        method: Method,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> None:
        self.method = method
        self.network = network
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.progress = progress
        self.label = labeled[Keys.LABEL]
        self.drawn: Tensor | None = None
        self.classes: Tensor | None = labeled.get(CLASSES)
        if self.classes is not None:
            self.drawn = self.label != IGNORED
            self.label = self.label.masked_fill(~self.drawn, PLACEHOLDER)
        self.ramp = 1.0 if method.ramp is None else method.ramp(progress)
        self.terms: dict[str, Term] = {name: term for name, term in method.listed() if term.applies(self)}
        self.observed: Pair[PseudoLabels] | None = None

    @cached_property
    def certain(self) -> Tensor | None:
        """Voxels whose one class is known, bool [B,1,*S]; None: all. For terms that take labels as they are.

        They were drawn, and are no background that may be a class that was not annotated in the image.
        """
        if self.classes is None or self.drawn is None:
            return None
        return certain_voxels(self.label, self.drawn, self.classes)

    def against_labels(self, loss: Callable[..., Tensor], logits: Tensor) -> Tensor:
        """A loss of (logits, label), given ``drawn`` and ``classes`` as well where labels are not complete."""
        if self.classes is None:
            return loss(logits, self.label)
        return loss(logits, self.label, self.drawn, self.classes)

    @property
    def unlabeled_image(self) -> Tensor:
        """Unlabelled images [U,channels,*S], for terms and teachers that need such."""
        return self._of_unlabeled(Keys.IMAGE)

    @property
    def weak_view(self) -> Tensor:
        """The same before their intensities were varied, where the data set's transforms keep that."""
        return self._of_unlabeled(WEAK_VIEW if self.unlabeled and WEAK_VIEW in self.unlabeled else Keys.IMAGE)

    def _of_unlabeled(self, key: str) -> Tensor:
        if self.unlabeled is None:
            raise ValueError("This step has no unlabelled images: a term that needs them says so by needs_unlabeled.")
        return self.unlabeled[key]

    @cached_property
    def views(self) -> dict[Term, View]:
        """The images that terms have made for this step, by term."""
        made: dict[Term, View | None] = {term: term.prepare(self) for term in self.terms.values()}
        return {term: view for term, view in made.items() if view is not None}

    @cached_property
    def _outputs(self) -> dict[Any, Pair[Prediction]]:
        """Both networks on all images that a term reads, in one forward pass, so that normalisation sees all."""
        readers: list[Term | Follower] = [*self.terms.values(), *self.method.followers]
        reads = {stream for reader in readers for stream in reader.reads}
        streams = {"labeled": self.labeled, "unlabeled": self.unlabeled}
        images: dict[Any, Tensor] = {
            name: batch[Keys.IMAGE] for name, batch in streams.items() if name in reads and batch is not None
        }
        images |= {term: view.image for term, view in self.views.items()}
        output, counts = self.network(torch.cat(list(images.values()))), [len(image) for image in images.values()]
        parts = [[tensor.split(counts) for tensor in subnet] for subnet in output]
        return {
            name: Pair(*(Prediction(logits[i], features[i]) for logits, features in parts))
            for i, name in enumerate(images)
        }

    @property
    def on_labeled(self) -> Pair[Prediction]:
        """Both networks on the labelled images, for terms that read ``labeled``."""
        return self._outputs["labeled"]

    @property
    def on_unlabeled(self) -> Pair[Prediction]:
        """Both networks on the unlabelled images, for terms that read ``unlabeled``."""
        return self._outputs["unlabeled"]

    def on_view(self, term: Term) -> Pair[Prediction]:
        """Both networks on the images that the term has prepared."""
        return self._outputs[term]

    @property
    def num_classes(self) -> int:
        """C."""
        return next(iter(self._outputs.values())).a.logits.shape[1]

    @cached_property
    def teachers(self) -> Pair[Prediction]:
        """What teaches network a, and what teaches b, on the unlabelled images."""
        return self.method.teacher(self)

    @cached_property
    def pseudo_labels(self) -> Pair[PseudoLabels]:
        """For each network what it is to learn of the unlabelled images."""
        if self.method.labeler is None:
            raise ValueError("This method has no labeler: a term that needs pseudo-labels says so by needs_labeler.")
        return self.observe(self.method.labeler(self, self.teachers))

    def lessons(self) -> Iterator[tuple[Prediction, Prediction]]:
        """Student and teacher on the unlabelled images, of network a and of b."""
        return zip(self.on_unlabeled, self.teachers, strict=True)

    def classes_taught(self) -> Pair[PseudoLabels] | None:
        """The pseudo-labels in use; without a labeler the teachers' classes; None where nobody has taught."""
        if self.observed is None and "teachers" in vars(self):
            labels = [teacher.logits.argmax(1, keepdim=True) for teacher in self.teachers]
            return Pair(*(PseudoLabels(own, torch.ones_like(own, dtype=torch.bool)) for own in labels))
        return self.observed

    def observe(self, pseudo_labels: Pair[PseudoLabels]) -> Pair[PseudoLabels]:
        """Note what pseudo-labels are in use, for the log."""
        self.observed = pseudo_labels
        return pseudo_labels
