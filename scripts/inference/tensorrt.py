# SPDX-License-Identifier: Apache-2.0
"""Both networks in TensorRT, by MONAI's own way there."""

from __future__ import annotations

import os
from collections.abc import Sequence

import monai
from torch import nn

from ..errors import DataError

__all__ = ["run_in_tensorrt"]


def run_in_tensorrt(
    network: nn.Module, weights: str | os.PathLike, precision: str, batch_size: int, further: Sequence[str] = ()
) -> nn.Module:
    """Let MONAI's ``trt_compile`` put a TensorRT engine in the place of each network (ours).

    The engines are built at the first window, for its size and 1 to ``batch_size`` windows, and kept beside the weights
    as ``NAME_PRECISION.a.plan`` and ``.b.plan``; with newer weights they are built again. Without a GPU, TensorRT or
    polygraphy MONAI warns, and the networks stay as they are.

    Args:
        network: with the networks ``a`` and ``b``.
        weights: file of the weights that it will have.
        precision: {``"fp16"``, ``"bf16"``, ``"tf32"``, ``"fp32"``}
        batch_size: most windows at a time.
        further: files of further weights to average with, for which there is no engine.

    Returns:
        The same network.

    Raises:
        DataError: when there are further weights.
    """
    if further:
        raise DataError("TensorRT: engines are for one model. Leave out further_weights, or inference_trt.json.")
    engine = f"{os.path.splitext(weights)[0]}_{precision}"
    options = {
        "precision": precision,
        "dynamic_batchsize": [1, batch_size, batch_size],
        "timestamp": int(os.path.getmtime(weights)),
    }
    return monai.networks.trt_compile(network, engine, args=options, submodule=["a", "b"])
