# SPDX-License-Identifier: Apache-2.0
"""Makes any network a subnet."""

from __future__ import annotations

import difflib

from torch import Tensor, nn


class WithFeatures(nn.Module):
    """
    Any network that maps images to logits, with the output of one of its layers as its features (ours).

    The layer is tapped only inside :meth:`forward_features`, so :meth:`forward` scripts and traces as the network
    itself does. Where the next layer works in place, the features are what it makes of them.

    Example:
        >>> import torch
        >>> from monai.networks.nets import SegResNet
        >>> from scripts.networks import WithFeatures
        >>> network = WithFeatures(SegResNet(out_channels=2, init_filters=8), layer="up_layers.2")
        >>> logits, features = network.forward_features(torch.zeros(1, 1, 16, 16, 16))
        >>> logits.shape, features.shape
        (torch.Size([1, 2, 16, 16, 16]), torch.Size([1, 8, 16, 16, 16]))
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        """
        Args:
            network: maps images [B, C_in, *S] to one tensor of logits [B, C, *S].
            layer: dotted name of the submodule, as in ``network.named_modules()``, that gives the features [B, E, *S'].

        Raises:
            ValueError: When the network has no such layer.
        """
        super().__init__()
        names = [name for name, _ in network.named_modules() if name]
        if layer not in names:
            near = difflib.get_close_matches(layer, names, n=5, cutoff=0.3) or names[:5]
            raise ValueError(
                f"{type(network).__name__} has no layer {layer!r}. Near it: {', '.join(near)}. "
                "All of them: [name for name, _ in network.named_modules()]."
            )
        self.network = network
        self.layer = layer

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        Logits and the tapped layer's output.

        Args:
            x: images [B, C_in, *S].

        Returns:
            Logits [B, C, *S] and features [B, E, *S'].

        Raises:
            ValueError: When the network gives anything but one tensor of logits, or the layer did not run or gave
                anything but one map of features.
        """
        outputs: list[object] = []
        handle = self.network.get_submodule(self.layer).register_forward_hook(
            lambda module, inputs, output: outputs.append(output)
        )
        try:
            logits = self.network(x)
        finally:
            handle.remove()
        network = type(self.network).__name__
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"{network} must give one tensor of logits, but gave a {type(logits).__name__}: "
                "switch its deep supervision or other outputs off."
            )
        if not outputs:
            raise ValueError(f"The layer {self.layer!r} of {network} did not run: choose one that its forward calls.")
        features = outputs[-1]
        if not isinstance(features, Tensor) or features.dim() != x.dim():
            got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"The layer {self.layer!r} of {network} must give features [B, E, *S'], {x.dim()} axes, but gave {got}."
            )
        return logits, features

    def forward(self, x: Tensor) -> Tensor:
        """
        The network's logits.

        Args:
            x: images [B, C_in, *S].

        Returns:
            Logits [B, C, *S].
        """
        return self.network(x)
