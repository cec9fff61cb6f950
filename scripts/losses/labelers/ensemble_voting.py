# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..renamed import renamed
from ..voxelwise import check_logits, check_matching, plain

__all__ = ["EnsembleVotingPseudoLabels"]


@renamed(__call__={"logits": "inputs"})
class EnsembleVotingPseudoLabels(nn.Module):
    """
    Pseudo-labels on which enough of several networks agree.

    The label is the class with the most votes; a voxel is reliable when it has at least ``min_agreement`` votes and no
    other class has as many. Nothing has a gradient. (labels, mask) go into :class:`~.EntropyFilteredPseudoLoss`.

    After the pseudo-label ensemble of https://arxiv.org/abs/2507.18176.

    Example:
        >>> import torch
        >>> votes = [torch.tensor([[[[2.0, 1.0]], [[0.0, 0.0]]]]), torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])]
        >>> labels, mask = EnsembleVotingPseudoLabels(min_agreement=2)(votes)
        >>> labels.tolist(), mask.tolist()
        ([[[[0, 0]]]], [[[[True, False]]]])
    """

    def __init__(self, min_agreement: int) -> None:
        """
        Args:
            min_agreement: number of networks that must agree, at least 1.

        Raises:
            ValueError: When ``min_agreement`` is below 1.
        """
        super().__init__()
        if min_agreement < 1:
            raise ValueError(f"min_agreement must be at least 1, got {min_agreement}")
        self.min_agreement = min_agreement

    @torch.no_grad()
    def forward(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            inputs: logits [B, C, *spatial] of each network.

        Returns:
            The pseudo-labels, int64 [B, 1, *spatial], and the reliable voxels, bool [B, 1, *spatial].

        Raises:
            ValueError: When there are fewer networks than ``min_agreement``, or a shape does not fit.
        """
        if isinstance(inputs, torch.Tensor) or len(inputs) < self.min_agreement:
            raise ValueError(
                f"inputs must be a sequence of at least min_agreement={self.min_agreement} tensors, got "
                f"{'a tensor' if isinstance(inputs, torch.Tensor) else len(inputs)}"
            )
        check_logits(inputs[0], "inputs[0]")
        votes = torch.zeros(inputs[0].shape, dtype=torch.int16, device=inputs[0].device)
        for i, network in enumerate(inputs):
            check_matching(inputs[0], network, "inputs[0]", f"inputs[{i}]")
            winner = plain(network).max(1, keepdim=True)[1]
            votes.scatter_add_(1, winner, torch.ones_like(winner, dtype=votes.dtype))
        most, labels = votes.max(1, keepdim=True)
        alone = (votes == most).sum(1, keepdim=True) == 1
        return labels, (most >= self.min_agreement) & alone
