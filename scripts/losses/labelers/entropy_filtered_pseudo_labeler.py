# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import torch
from torch import nn

from ..voxelwise import check_logits, check_matching, predict

__all__ = ["EntropyFilteredPseudoLabeler"]

# A threshold is a rank among this many voxels of a case at most: enough for a fraction to be right to about 0.1 %.
MAX_RANKED_VOXELS = 2**18


class EntropyFilteredPseudoLabeler(nn.Module):
    r"""
    Pseudo-labels fused from two networks, and a mask of the voxels where the networks are sure enough to be believed.

    With the entropy :math:`H(p) = -\sum_c p_c \log p_c / \log C`, the label is
    :math:`\hat y = \arg\max_c \sum_k w_k \, p_{k,c}` with :math:`w_k \propto e^{-H(p_k)}`. In every case, and
    among the voxels of every pseudo-class, the voxels with a network's highest entropies are unreliable. The thresholds
    are ranks, so voxels that tie with the threshold are kept. A case of more than 262,144 voxels is ranked on a
    strided subsample of them; a class that the subsample misses is kept. Nothing leaves the device, nothing has a
    gradient.

    Lu et al., https://arxiv.org/abs/2509.13084 (term 4 of the method); filtering by entropy percentile as in
    Wang et al., "Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels" (U2PL), CVPR 2022,
    https://arxiv.org/abs/2203.03884. The thresholds per class are ours: without them the small classes, rich in
    boundary, lose most of their voxels.

    Attributes:
        drop_fraction: may be changed during training, for example to let it decay to 0.

    Example:
        >>> import torch
        >>> labeler = EntropyFilteredPseudoLabeler(drop_fraction=0.25, per_class=False)
        >>> logits = torch.tensor([[[[4.0, 3.0, 2.0, 0.1]], [[0.0, 0.0, 0.0, 0.0]]]])
        >>> labels, mask = labeler(logits, logits)
        >>> labels.tolist(), mask.tolist()
        ([[[[0, 0, 0, 0]]]], [[[[True, True, True, False]]]])
    """

    def __init__(self, drop_fraction: float = 0.2, combine: str = "either", per_class: bool = True) -> None:
        """
        Args:
            drop_fraction: share of voxels, in [0, 1), that are unreliable for one network. 0 keeps all.
            combine: {``"either"``, ``"both"``}
                Whether a voxel is dropped when it is unreliable for either network, or only for both. With
                ``"either"``, up to twice ``drop_fraction`` is dropped. Defaults to ``"either"``.
            per_class: whether ranks are taken among the voxels of each pseudo-class, or of the whole case.

        Raises:
            ValueError: When ``drop_fraction`` is not in [0, 1), or ``combine`` is none of the options.
        """
        super().__init__()
        if combine not in ("either", "both"):
            raise ValueError(f"combine must be 'either' or 'both', got {combine!r}")
        self.drop_fraction = float(drop_fraction)
        self.combine = combine
        self.per_class = per_class
        self.max_ranked_voxels = MAX_RANKED_VOXELS
        self._check_drop_fraction()

    def forward(self, input: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            input: logits [B, C, *spatial] of one network.
            other: logits [B, C, *spatial] of the other network.

        Returns:
            The pseudo-labels, int64 [B, 1, *spatial], and the reliable voxels, bool [B, 1, *spatial].

        Raises:
            ValueError: When a shape does not fit, naming the shapes, or when ``drop_fraction`` was set outside [0, 1).
        """
        check_logits(input, "input")
        check_matching(input, other, "input", "other")
        a, b = predict(input.detach()), predict(other.detach())
        return self.from_probabilities(a.p, a.entropy, b.p, b.entropy)

    def from_probabilities(
        self, p: torch.Tensor, entropy: torch.Tensor, other_p: torch.Tensor, other_entropy: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`forward`, for probabilities [B, C, *spatial] and entropies in nats that are already at hand."""
        self._check_drop_fraction()
        p, other_p, highest = p.detach(), other_p.detach(), math.log(p.shape[1])
        fused = (p * (entropy / -highest).exp_()).addcmul_(other_p, (other_entropy / -highest).exp_())
        labels = fused.max(1, keepdim=True)[1]  # on a CPU, many times faster than argmax
        if self.drop_fraction == 0.0 or labels.numel() == 0:
            return labels, torch.ones_like(labels, dtype=torch.bool)
        groups = labels if self.per_class else torch.zeros_like(labels)
        group_count = p.shape[1] if self.per_class else 1
        reliable = self._reliable(entropy, groups, group_count)
        other_reliable = self._reliable(other_entropy, groups, group_count)
        mask = reliable & other_reliable if self.combine == "either" else reliable | other_reliable
        return labels, mask

    def _reliable(self, entropy: torch.Tensor, groups: torch.Tensor, group_count: int) -> torch.Tensor:
        voxels = entropy.flatten(1).shape[1]
        # An odd stride visits all columns of a volume whose sides are even.
        cells = (voxels + self.max_ranked_voxels - 1) // self.max_ranked_voxels
        stride = cells | 1 if cells > 1 else 1
        entropy = entropy.float()
        thresholds = self._thresholds(entropy.flatten(1)[:, ::stride], groups.flatten(1)[:, ::stride], group_count)
        return entropy <= thresholds.gather(1, groups.flatten(1)).view_as(entropy)

    def _thresholds(self, entropy: torch.Tensor, groups: torch.Tensor, group_count: int) -> torch.Tensor:
        """Highest entropy [B, groups] that is kept, for entropy (float32) and groups [B, voxels]; infinite if empty.

        The bits of a float32 that is not negative are in the order of its values, so one sort of integers, with case
        and group above the bits, ranks the entropies within the groups of all cases.
        """
        cases = torch.arange(groups.shape[0], device=groups.device)[:, None]
        bits = torch.view_copy(entropy.abs(), dtype=torch.int32)  # abs, as a zero may have a sign
        ranked = (((cases * group_count + groups) << 32) + bits).flatten().sort(stable=True)[0]
        ids = torch.arange(groups.shape[0] * group_count + 1, device=groups.device)
        bounds = torch.searchsorted(ranked, ids << 32)
        counts = bounds[1:] - bounds[:-1]
        kept = counts - (counts * self.drop_fraction).long()
        last = (ranked[(bounds[:-1] + kept - 1).clamp(min=0)] & 0x7FFFFFFF).int()
        thresholds = torch.view_copy(last, dtype=torch.float32).masked_fill(counts == 0, float("inf"))
        return thresholds.view(groups.shape[0], group_count)

    def _check_drop_fraction(self) -> None:
        if not 0.0 <= self.drop_fraction < 1.0:
            raise ValueError(f"drop_fraction must be in [0, 1), got {self.drop_fraction}")
