# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from ..renamed import renamed
from ..voxelwise import check_logits, full_precision, one_channel, plain, required_mask
from .feature_maps import at_feature_resolution, check_features, class_sums, draw_per_class, take, unit, wide_features
from .prototype_bank import PrototypeBank

__all__ = ["ClassFeatures", "PrototypeContrastiveLoss"]


class ClassFeatures(NamedTuple):
    """Voxels whose class is known, or believed in, and from which prototypes are updated.

    Attributes:
        features: [B, E, *feature_spatial], of the network whose prototypes they are, or of its moving average.
        labels: class maps [B, 1, *spatial]; the spatial size is that of the features or an integer multiple of it.
        mask: bool [B, 1, *spatial], True where a voxel counts.
        weight: how much it does, at least 0, [B, 1, *spatial]; None: 1.
    """

    features: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    weight: torch.Tensor | None = None


@renamed(__call__={"logits": "input", "mask": "reliable"})
class PrototypeContrastiveLoss(nn.Module):
    r"""
    Draws the features of unreliable voxels to the prototype of the class they are taken for, away from the others.

    The prototypes :math:`P_c` are moving averages (:class:`~.PrototypeBank`) of the mean features of the reliable
    voxels with pseudo-label c. The anchors :math:`f` are drawn from the unreliable voxels, grouped by the class that
    the student itself predicts. With :math:`\hat f = f / \lVert f \rVert` and temperature :math:`\tau`:

    .. math::
        L_{infonce} = -\log \frac{\exp(\hat f \cdot \hat P_c / \tau)}
            {\sum_{c'} \exp(\hat f \cdot \hat P_{c'} / \tau)}, \qquad
        L_{distance} = \lVert \hat f - \hat P_c \rVert
            + \underset{c \ne c'}{\mathrm{mean}} \; \max(0, m - \lVert \hat \mu_c - \hat P_{c'} \rVert)

    averaged over the anchors of a class, then over the classes. :math:`\mu_c` is the mean feature of class c in this
    batch, through which the second form drives the prototypes at least the margin m apart; the prototypes themselves
    are constants. With fewer than two prototypes, or no anchor, the loss is a zero that backpropagates, and ``skipped``
    counts it.

    Lu et al., "Enhancing Dual Network Based Semi-Supervised Medical Image Segmentation with Uncertainty-Guided
    Pseudo-Labeling", Knowledge-Based Systems 2025, https://arxiv.org/abs/2509.13084 (term 7 of the method). The
    averaging over classes, the sampling and the InfoNCE form are ours, after U2PL, https://arxiv.org/abs/2203.03884.

    One instance serves one network: it holds that network's prototypes. They change in training mode only.

    Attributes:
        bank: the :class:`~.PrototypeBank`.
        skipped: buffer, number of training steps in which nothing could be learnt.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> loss = PrototypeContrastiveLoss(num_classes=2, feature_channels=8)
        >>> features = torch.randn(1, 8, 16, 16, requires_grad=True)
        >>> logits = torch.randn(1, 2, 16, 16)
        >>> reliable = torch.rand(1, 1, 16, 16) > 0.5
        >>> value = loss(features, logits, logits.argmax(1, keepdim=True), reliable)
        >>> value.backward()
        >>> loss.bank.seen.tolist(), loss.skipped.item()
        ([True, True], 0)
    """

    skipped: torch.Tensor

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        momentum: float = 0.99,
        temperature: float = 0.1,
        form: str = "infonce",
        margin: float = math.sqrt(2.0),
        anchor_fraction: float = 0.01,
        min_anchors: int = 64,
        max_anchors: int = 2048,
    ) -> None:
        """
        Args:
            num_classes: number of classes, background included.
            feature_channels: channels E of the features.
            momentum: of the prototypes' moving average, in [0, 1].
            temperature: of the InfoNCE form, above 0.
            form: {``"infonce"``, ``"distance"``}. Defaults to ``"infonce"``.
            margin: distance between unit prototypes, in (0, 2], up to which the distance form drives them apart.
                Defaults to the distance of orthogonal ones.
            anchor_fraction: share of a class's unreliable voxels that become anchors, in (0, 1].
            min_anchors: anchors of a class at least, as far as it has unreliable voxels.
            max_anchors: anchors of a class at most.

        Raises:
            ValueError: When an option is out of its range.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if form not in ("infonce", "distance"):
            raise ValueError(f"form must be 'infonce' or 'distance', got {form!r}")
        if not 0.0 < margin <= 2.0:
            raise ValueError(f"margin must be in (0, 2], the distances between unit vectors, got {margin}")
        if not 0.0 < anchor_fraction <= 1.0:
            raise ValueError(f"anchor_fraction must be in (0, 1], got {anchor_fraction}")
        if not 1 <= min_anchors <= max_anchors:
            raise ValueError(f"1 <= min_anchors <= max_anchors must hold, got {min_anchors} and {max_anchors}")
        self.bank = PrototypeBank(num_classes, feature_channels, momentum)
        self.temperature = float(temperature)
        self.form = form
        self.margin = float(margin)
        self.anchor_fraction = float(anchor_fraction)
        self.min_anchors = min_anchors
        self.max_anchors = max_anchors
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        features: torch.Tensor,
        input: torch.Tensor,
        labels: torch.Tensor,
        reliable: torch.Tensor,
        sources: Sequence[ClassFeatures] | None = None,
    ) -> torch.Tensor:
        """
        Args:
            features: the student's features [B, E, *feature_spatial], the only input that is trained. The spatial size
                is that of the logits or smaller by an integer factor; the other inputs are then read at the centre of
                each feature voxel.
            input: the student's logits [B, C, *spatial].
            labels: pseudo-labels, class maps [B, 1, *spatial].
            reliable: bool [B, 1, *spatial]; the voxels where it is False may be anchors.
            sources: what the prototypes are updated from, all together, without a gradient; None: ``features``, where
                ``reliable``.

        Raises:
            ValueError: When a shape or dtype does not fit, naming it.
        """
        num_classes, feature_channels = self.bank.prototypes.shape
        check_logits(input, "input", num_classes)
        check_features(features, input, feature_channels)
        labels = one_channel(labels, input, "labels")
        reliable = required_mask(reliable, input, "reliable")
        size = features.shape[2:]
        predictions = at_feature_resolution(plain(input.detach()), size).max(1, keepdim=True)[1]
        labels, reliable = at_feature_resolution(labels, size), at_feature_resolution(reliable, size)
        with torch.autocast(features.device.type, enabled=False):
            found = None if sources is None else self._class_sums(sources)
            return self._loss(wide_features(features), predictions, labels, reliable, found)

    @torch.no_grad()
    def _class_sums(self, sources: Sequence[ClassFeatures]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of features [num_classes, E] and of weights [num_classes] over all sources."""
        num_classes, feature_channels = self.bank.prototypes.shape
        sums, counts = torch.zeros_like(self.bank.prototypes), torch.zeros_like(self.bank.prototypes[:, 0])
        for source in sources:
            features = full_precision(source.features)
            check_features(features, source.labels, feature_channels)
            size = features.shape[2:]
            labels = at_feature_resolution(one_channel(source.labels, source.labels, "labels"), size)
            mask = at_feature_resolution(required_mask(source.mask, source.labels, "mask"), size)
            weight = None if source.weight is None else at_feature_resolution(source.weight, size)
            own_sums, own_counts = class_sums(features, labels, mask, num_classes, weight)
            sums, counts = sums + own_sums, counts + own_counts
        return sums, counts

    def _loss(
        self,
        features: torch.Tensor,
        predictions: torch.Tensor,
        labels: torch.Tensor,
        reliable: torch.Tensor,
        found: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        num_classes = self.bank.prototypes.shape[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.form == "distance"):
            sums, counts = class_sums(features, labels, reliable, num_classes)
        if self.training:
            self.bank.update(*((sums, counts) if found is None else found))
        prototypes = unit(self.bank.prototypes.to(features.dtype))
        seen = self.bank.seen

        groups = predictions.masked_fill(reliable | ~seen[predictions], -1)
        index, drawn = draw_per_class(groups, num_classes, self.anchor_fraction, self.min_anchors, self.max_anchors)
        learnable = (seen.sum() >= 2) & drawn.any()
        if self.training:
            self.skipped.add_(~learnable)
        pull = self._pull(unit(take(features, index)), prototypes, seen)
        per_class = (pull * drawn).sum(1) / drawn.sum(1).clamp(min=1)
        loss = per_class.sum() / drawn.any(1).sum().clamp(min=1)
        if self.form == "distance":
            means = unit(sums / counts.clamp(min=1)[:, None])
            loss = loss + self._push(means, counts > 0, prototypes, seen)
        return loss * learnable

    def _pull(self, anchors: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Loss [classes, anchors] of unit anchors [classes, anchors, E], each to resemble its class's prototype."""
        if self.form == "distance":
            return torch.linalg.vector_norm(anchors - prototypes[:, None], dim=-1)
        similarity = (anchors @ prototypes.T) / self.temperature
        log_p = similarity.masked_fill(~seen, torch.finfo(similarity.dtype).min / 2).log_softmax(-1)
        return -log_p.diagonal(dim1=0, dim2=2).T

    def _push(
        self, means: torch.Tensor, present: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        """Mean hinge over the pairs of a class of this batch and the prototype of another class."""
        distances = torch.linalg.vector_norm(means[:, None] - prototypes[None], dim=-1)
        own = torch.eye(len(seen), dtype=torch.bool, device=seen.device)
        pairs = present[:, None] & seen[None] & ~own
        return ((self.margin - distances).clamp(min=0) * pairs).sum() / pairs.sum().clamp(min=1)
