# SPDX-License-Identifier: Apache-2.0
"""Weights of a model into its networks."""

from __future__ import annotations

import os
from typing import Any

import torch
from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from torch import nn

from ..errors import DataError
from ..tensor_files import SAFETENSORS, read_weights

__all__ = ["WeightsLoader", "load_weights", "read_weights"]


def load_weights(network: nn.Module, path: str | os.PathLike, device: torch.device | str = "cpu") -> nn.Module:
    """Load a file of weights into a network (ours).

    Args:
        network: of the architecture they are for.
        path: see :func:`read_weights`.
        device: where they are read to.

    Returns:
        The network, in evaluation mode.

    Raises:
        DataError: when the file cannot be read, or is of other networks.
    """
    try:
        network.load_state_dict(read_weights(path, device))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: holds weights of other networks than the config describes.") from error
    return network.eval()


class WeightsLoader(CheckpointLoader):
    """MONAI's CheckpointLoader, which reads safetensors, too (ours).

    Args:
        load_path: ``.pt``, or ``.safetensors`` for a single network in ``load_dict``.
        load_dict, args, kwargs: see CheckpointLoader.
    """

    def __init__(self, load_path: str, load_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(load_path, load_dict, *args, **kwargs)

    def __call__(self, engine: Engine) -> None:
        """Load when the engine starts."""
        if not str(self.load_path).endswith(SAFETENSORS):
            return super().__call__(engine)
        (network,) = self.load_dict.values()
        load_weights(network, self.load_path, self.map_location or "cpu")
        self.logger.info(f"Restored all variables from {self.load_path}")
        return None
