# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn

from ..losses import SigmoidRamp
from ..networks import DualOutput
from .method import Method, forward_jointly, supervised_losses

__all__ = ["MeanTeacherMethod", "UncertaintyAwareMeanTeacherMethod"]


class MeanTeacherMethod(Method):
    """Mean teacher: each network agrees with its own moving average about a noisy view of the unlabelled images.

    ``L = sum_k L_s^k + weight * w(t) * mean ||p_k(x) - p'_k(x + noise)||^2`` (mean over voxels and classes), with
    clipped Gaussian noise on the teacher's input. Teacher and student both drop out.

    Source: Tarvainen and Valpola, "Mean teachers are better role models", NIPS 2017, with the settings that Yu et al.
    (UA-MT, MICCAI 2019) use for the left atrium. Theirs is one network; here both learn so, apart.

    Args:
        supervised: loss of (logits [B,C,*S], label [B,1,*S]).
        teacher: moving average of the dual network.
        consistency_weight: weight of the consistency.
        ramp: w(t), callable from progress in [0, 1]; the default ramps up over the whole training, as the source does.
        noise: standard deviation of the noise, in units of the normalised image; it is clipped at twice this value.
    """

    def __init__(
        self,
        supervised: nn.Module,
        teacher: nn.Module,
        consistency_weight: float = 0.1,
        ramp: Callable[[float], float] | None = None,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.supervised = supervised
        self.teacher = teacher
        self.consistency_weight = consistency_weight
        self.ramp = SigmoidRamp(length=1.0) if ramp is None else ramp
        self.noise = noise

    def forward(
        self,
        network: Callable[[Tensor], DualOutput],
        labeled: Mapping[str, Tensor],
        unlabeled: Mapping[str, Tensor] | None,
        progress: float,
    ) -> dict[str, Tensor]:
        on_labeled, on_unlabeled = forward_jointly(network, labeled, unlabeled)
        label = labeled[Keys.LABEL]
        num_classes = on_labeled.a.logits.shape[1]
        self.observe_labels(label, num_classes)
        losses = supervised_losses(self.supervised, on_labeled, label)
        if on_unlabeled is None:
            return losses
        images = unlabeled[Keys.IMAGE]
        targets = self._teach(images)
        certain = self._certain(images, num_classes, progress)
        weight = self.consistency_weight * self.ramp(progress)
        for name, student, target, mask in zip(("a", "b"), on_unlabeled, targets, certain, strict=True):
            losses[f"consistency_{name}"] = weight * _masked_mean_square(student.logits, target, mask)
        pseudo_labels = (targets[0] + targets[1]).argmax(1, keepdim=True)
        self.observe_pseudo_labels(pseudo_labels, torch.cat(certain), num_classes)
        return losses

    @torch.no_grad()
    def _teach(self, images: Tensor) -> list[Tensor]:
        """Softmax of both teachers on a noisy view, each [U,C,*S] in float32."""
        noise = (self.noise * torch.randn_like(images)).clamp(-2 * self.noise, 2 * self.noise)
        return [output.logits.float().softmax(1) for output in self.teacher(images + noise)]

    def _certain(self, images: Tensor, num_classes: int, progress: float) -> list[Tensor]:
        """For each network, the voxels, bool [U,1,*S], on which it is to agree with its teacher: all of them."""
        return [torch.ones_like(images[:, :1], dtype=torch.bool)] * 2


class UncertaintyAwareMeanTeacherMethod(MeanTeacherMethod):
    """UA-MT: a mean teacher that teaches only what it is certain of.

    Uncertainty is the entropy of the mean softmax of ``passes`` noisy passes with dropout through the teacher; a
    voxel counts when it is below ``(0.75 + 0.25 w(t)) * log C``.

    Source: Yu et al., "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left Atrium Segmentation",
    MICCAI 2019, arXiv 1907.07034, eq. 2 to 4 (there, C = 2). Theirs is one network; here both learn so, apart.

    Args:
        supervised, teacher, consistency_weight, ramp, noise: see :class:`MeanTeacherMethod`.
        passes: noisy passes through the teacher for the uncertainty.
    """

    def __init__(
        self,
        supervised: nn.Module,
        teacher: nn.Module,
        consistency_weight: float = 0.1,
        ramp: Callable[[float], float] | None = None,
        noise: float = 0.1,
        passes: int = 8,
    ) -> None:
        super().__init__(supervised, teacher, consistency_weight, ramp, noise)
        self.passes = passes

    @torch.no_grad()
    def _certain(self, images: Tensor, num_classes: int, progress: float) -> list[Tensor]:
        passes = [self._teach(images) for _ in range(self.passes)]
        means = [torch.stack(one_network).mean(0) for one_network in zip(*passes, strict=True)]
        threshold = (0.75 + 0.25 * self.ramp(progress)) * math.log(num_classes)
        return [-torch.xlogy(mean, mean).sum(1, keepdim=True) < threshold for mean in means]


def _masked_mean_square(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked voxels, and over the classes, of the squared difference of softmax and target."""
    squares = (logits.float().softmax(1) - target).square() * mask
    return squares.sum() / (logits.shape[1] * mask.sum()).clamp(min=1)
