# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed

__all__ = ["ConflictFreeGradient"]

SCALE = 1024.0


class ConflictFreeGradient:
    r"""
    A backward pass in which the unsupervised gradient loses the part that opposes the supervised one.

    With the gradients :math:`g_s, g_u` of both losses over all parameters, the gradient added to the parameters is

    .. math::
        g_s + g_u - \frac{\min(0, g_u \cdot g_s)}{\lVert g_s \rVert^2} \, g_s

    What carries over from "Decoupled Pseudo-labeling for Semi-Supervised Monocular 3D Object Detection",
    https://arxiv.org/abs/2403.17387, whose gradient projection does this for its depth branch; here it is done for all
    parameters.

    Mixed precision: pass losses that went through ``GradScaler.scale``. The projection does not depend on a common
    factor, so nothing is unscaled, and an overflow stays visible to ``GradScaler.step``, which then skips the step.

    DistributedDataParallel: its reduction hangs on ``loss.backward()``, which is not called here. Run the forward pass
    on the bare module (``ddp.module``); both gradients are averaged over the ranks here, before the projection, so
    all ranks take the same step. Every rank must call :meth:`backward` at every step.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> supervised, unsupervised = w @ torch.tensor([1.0, 0.0]), w @ torch.tensor([-3.0, 2.0])
        >>> ConflictFreeGradient([w]).backward(supervised, unsupervised)
        >>> w.grad.tolist()  # the -3 against the supervised direction is gone
        [1.0, 2.0]
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """
        Args:
            parameters: those to train; without ``requires_grad`` they are left out.

        Raises:
            ValueError: When none of them requires a gradient.
        """
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self.parameters:
            raise ValueError("parameters must contain at least one that requires a gradient, got none")

    def backward(self, supervised: torch.Tensor, unsupervised: torch.Tensor) -> None:
        """
        Add the conflict-free gradient of both losses to ``grad`` of the parameters.

        Args:
            supervised: scalar loss of the labelled data.
            unsupervised: scalar loss of the unlabelled data.

        Raises:
            ValueError: When a loss is not a scalar.
        """
        wanted, extra = self._both(supervised, unsupervised, retain_graph=False)
        opposed = _opposed(wanted, extra)
        for parameter, s, u in zip(self.parameters, wanted, extra, strict=True):
            gradient = s + u - opposed.to(s.dtype) * s
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def conflict(self, supervised: torch.Tensor, unsupervised: torch.Tensor) -> torch.Tensor:
        r"""
        How much more the supervised loss would have to count for the same gradient, for an ordinary backward pass.

        ``((1 + conflict) * supervised + unsupervised).backward()`` adds the same gradient as :meth:`backward`. The
        graph is kept for it. In float16 the gradients are of losses a thousand times as large, so that few vanish;
        where one overflows, the conflict counts as 0.

        Args:
            supervised: scalar loss of the labelled data.
            unsupervised: scalar loss of the unlabelled data.

        Returns:
            :math:`-\min(0, g_u \cdot g_s) / \lVert g_s \rVert^2`, 0-d, float32, without a gradient.

        Raises:
            ValueError: When a loss is not a scalar.
        """
        wanted, extra = self._both(SCALE * supervised, SCALE * unsupervised, retain_graph=True)
        conflict = -_opposed(wanted, extra).float()
        return torch.where(conflict.isfinite(), conflict, 0.0)

    def _both(
        self, supervised: torch.Tensor, unsupervised: torch.Tensor, retain_graph: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        for name, loss in (("supervised", supervised), ("unsupervised", unsupervised)):
            if loss.numel() != 1:
                raise ValueError(f"{name} must be a scalar loss, got shape {loss.shape}")
        return self._gradients(supervised, retain_graph=True), self._gradients(unsupervised, retain_graph)

    def _gradients(self, loss: torch.Tensor, retain_graph: bool) -> list[torch.Tensor]:
        found = torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
        if distributed.is_available() and distributed.is_initialized():
            for gradient in gradients:
                distributed.all_reduce(gradient)
                gradient /= distributed.get_world_size()
        return gradients


def _opposed(wanted: list[torch.Tensor], extra: list[torch.Tensor]) -> torch.Tensor:
    """min(0, extra . wanted) / |wanted|^2, 0-d."""
    # In float64: over millions of parameters, scaled losses would overflow or lose the sum in float32.
    product = torch.stack([(s.double() * u.double()).sum() for s, u in zip(wanted, extra, strict=True)]).sum()
    square = torch.stack([s.double().square().sum() for s in wanted]).sum()
    return product.clamp(max=0.0) / torch.where(square == 0, torch.ones_like(square), square)
