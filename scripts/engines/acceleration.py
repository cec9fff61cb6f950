# SPDX-License-Identifier: Apache-2.0
"""How a step is computed: in which numbers, in what order in memory, keeping what; and what ``auto`` makes of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import nn

from ..errors import DataError

__all__ = ["choose_autocast", "choose_memory_format", "prepare_network", "tune_gpu"]

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
MEMORY_FORMATS = ("contiguous", "channels_last")
WIDE = 16
"""Channels of the first level from which a CPU gains by bfloat16 and channels last, and a GPU by the latter."""
LARGE = 96 * 64 * 32
"""Voxels of a crop from which a CPU gains by bfloat16 alone, whatever the width."""
SMALLEST = 3
"""Voxels that oneDNN needs along the first axis, see :func:`_has_wrong_gradient`."""

logger = logging.getLogger(__name__)


def choose_autocast(
    precision: str,
    device: torch.device | str,
    network: nn.Module,
    patch_size: Sequence[int] | None = None,
) -> torch.dtype | None:
    """In which numbers the networks compute; the losses always do in float32 (ours).

    ``auto``: on a GPU bfloat16 where it has that, else float16. On a CPU bfloat16 where it has instructions for it and
    the networks are wide (16 channels and up) or the crops large (96 x 64 x 32 voxels and up), and where the gradient
    is right; else, as on other devices, float32.

    Args:
        precision: {``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"``}
        device: where the networks compute.
        network: the pair of networks.
        patch_size: of the crops in training, in voxels; None: no gradient is computed.

    Returns:
        The type for ``torch.autocast``, or None: float32.

    Raises:
        DataError: when the precision is none of the options, or the device would compute wrongly in it.
    """
    if precision not in ("auto", *PRECISIONS):
        raise DataError(f"precision {precision!r}: give one of {', '.join(('auto', *PRECISIONS))}.")
    kind = torch.device(device).type
    wrong = kind == "cpu" and patch_size is not None and _has_wrong_gradient(network, patch_size)
    if precision == "auto":
        if kind == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        gains = kind == "cpu" and _has_bfloat16() and (_is_wide(network) or math.prod(patch_size or (0,)) >= LARGE)
        return torch.bfloat16 if gains and not wrong else None
    if precision == "float16" and kind == "cpu":
        raise DataError(
            "precision float16: not on a CPU, where small gradients would vanish. Give bfloat16 or float32."
        )
    if precision == "bfloat16" and wrong:
        raise DataError(
            f"precision bfloat16: with patch_size {list(patch_size or ())} the networks come down to fewer than "
            f"{SMALLEST} voxels along the first axis, or it is not known to how many, and the gradients of a CPU are "
            "wrong there. Give float32 or auto, or patches that are longer along this axis."
        )
    return PRECISIONS[precision]


def choose_memory_format(memory_format: str, device: torch.device | str, network: nn.Module) -> torch.memory_format:
    """How feature maps lie in memory: channel by channel, or voxel by voxel (channels last) (ours).

    ``auto``: channels last on a CPU and a GPU for wide networks (16 channels and up), else contiguous.

    Args:
        memory_format: {``"auto"``, ``"contiguous"``, ``"channels_last"``}
        device: where the networks compute.
        network: the pair of networks, in 2D or 3D.

    Raises:
        DataError: when it is none of the options.
    """
    if memory_format not in ("auto", *MEMORY_FORMATS):
        raise DataError(f"memory_format {memory_format!r}: give one of {', '.join(('auto', *MEMORY_FORMATS))}.")
    if memory_format == "auto":
        gains = torch.device(device).type in ("cpu", "cuda") and _is_wide(network)
        memory_format = "channels_last" if gains else "contiguous"
    if memory_format == "contiguous":
        return torch.contiguous_format
    in_3d = any(weight.dim() == 5 for weight in network.parameters())
    return torch.channels_last_3d if in_3d else torch.channels_last


def prepare_network(
    network: nn.Module,
    device: torch.device | str,
    memory_format: str = "auto",
    checkpointing: bool = False,
    compiled: bool = False,
    sync_batch_norm: bool = False,
) -> nn.Module:
    """Move the pair of networks to the device, ready for training (ours).

    Args:
        network: the pair of networks.
        device: where to.
        memory_format: see :func:`choose_memory_format`.
        checkpointing: compute what is inside of a level again for the backward pass: less memory, more time.
        compiled: compile level by level with ``torch.compile``; where that does not work, say so and go on without.
        sync_batch_norm: batch normalisation takes its statistics from the batches of all processes, on GPUs.

    Returns:
        The same network.

    Raises:
        DataError: when a network has no levels that could be computed again or compiled.
    """
    chosen = choose_memory_format(memory_format, device, network)
    if sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = network.to(device) if chosen is torch.contiguous_format else network.to(device, memory_format=chosen)
    if checkpointing or compiled:
        for part in network.children():
            if not hasattr(part, "checkpointing"):
                raise DataError(
                    f"checkpointing, compile: {type(part).__name__} does not have this bundle's levels. Leave both "
                    "off, and use the options of that network in network_def, such as use_checkpoint."
                )
            part.checkpointing = checkpointing
    if compiled and _can_compile(torch.device(device)):
        for part in network.children():
            for level in (*part.encoder, *part.ups, *part.blocks):
                level.compile()
    return network


def tune_gpu(tf32: bool = True) -> None:
    """Let a GPU choose the fastest convolutions, and multiply float32 with TF32; does nothing without one (ours).

    Args:
        tf32: round the factors of float32 products to 10 bits, which GPUs from Ampere on do much faster.
    """
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")


def _has_bfloat16() -> bool:
    """Whether this CPU has instructions for it; without, it would be emulated, slowly."""
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test is not None)


def _is_wide(network: nn.Module) -> bool:
    widths = [getattr(part, "feature_channels", 0) for part in network.children()]
    return bool(widths) and min(widths) >= WIDE


def _has_wrong_gradient(network: nn.Module, patch_size: Sequence[int]) -> bool:
    """Whether oneDNN's bfloat16 gradient of the weights would be wrong in a level; True where that is not known.

    In torch 2.13 it is for a 3-wide convolution of stride 1 whose input is 2 voxels long along the first axis: wrong by
    as much as the gradient itself, or infinite. A level of 1 voxel has one of 2 above it.
    """
    deepest = [patch_size[0] // part.multiples[0] if hasattr(part, "multiples") else 0 for part in network.children()]
    return not deepest or min(deepest) < SMALLEST


def _can_compile(device: torch.device) -> bool:
    try:
        torch.compile(nn.Linear(1, 1).to(device))(torch.ones(1, 1, device=device))
    except Exception as error:  # of the compiler, of whatever kind: nothing of the run is wrong
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        logger.warning("torch.compile does not work here, so the networks run uncompiled: %s", reason)
        return False
    return True
