# SPDX-License-Identifier: Apache-2.0
"""One file that holds the whole ensemble, and says what to feed it."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata
from monai.networks.utils import convert_to_onnx
from monai.utils import optional_import
from torch import nn

from ..errors import DataError
from ..files import replace_file
from ..networks import DualEnsemble
from .exact_norms import with_exact_norms
from .mean_of_subnets import MeanOfSubnets

__all__ = ["FORMATS", "write_exports"]

INPUT, OUTPUT = "image", "log_probabilities"

logger = logging.getLogger(__name__)


def write_exports(
    network: nn.Module, description: Mapping[str, Any], output_dir: str | os.PathLike, formats: Sequence[str]
) -> list[Path]:
    """Write a model as ``model.ts`` (TorchScript) and ``model.onnx`` (ours).

    Both take images [B, C_in, *S] of any batch and of any size that is a multiple of the networks' own, and give the
    logarithm of the class probabilities [B, C, *S]. What the images have to be is in the file, as JSON:
    ``description`` with ``input``, ``output`` and ``size_multiple``; in TorchScript as MONAI's metadata, in ONNX under
    the key ``description``.

    Args:
        network: a ``DualEnsemble``, or a ``RunsEnsemble`` of several, with its weights.
        description: of :func:`describe_model`.
        output_dir: folder to write to.
        formats: of :data:`FORMATS`.

    Returns:
        The paths.

    Raises:
        DataError: when a format is unknown, or a package for it is missing.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise DataError(f"--formats {','.join(formats)}: must be of {', '.join(FORMATS)}, by commas.")
    members = [network] if isinstance(network, DualEnsemble) else list(network.networks)
    whole = MeanOfSubnets(members).cpu().eval()
    meta = {**description, "input": INPUT, "output": OUTPUT, "size_multiple": whole.size_multiple}
    written = []
    for name in formats:
        suffix, write = FORMATS[name]
        path = Path(output_dir, f"model{suffix}")
        with replace_file(path) as temporary:
            write(whole, meta, temporary)
        logger.info("Written: %s", path)
        written.append(path)
    return written


def _write_torchscript(network: MeanOfSubnets, meta: Mapping[str, Any], path: Path) -> None:
    save_net_with_metadata(torch.jit.script(network), str(path), meta_values=dict(meta), append_timestamp=False)


def _write_onnx(network: MeanOfSubnets, meta: Mapping[str, Any], path: Path) -> None:
    onnx, installed = optional_import("onnx")
    if not installed:
        raise DataError(
            'ONNX takes a package that is not here: pip install "dualseg[export]", or --formats torchscript.'
        )
    spatial = range(2, 2 + len(meta["patch_size"]))
    axes = {0: "batch", **{axis: "xyz"[axis - 2] for axis in spatial}}
    sample = torch.zeros(1, meta["in_channels"], *[network.size_multiple] * len(spatial))
    with warnings.catch_warnings():
        # The exporter by torch.export wants a size that it can prove to be a multiple, and minutes to do so.
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript-based ONNX export")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        made = convert_to_onnx(
            with_exact_norms(network),
            (sample,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: axes, OUTPUT: axes},
            dynamo=False,
        )
    onnx.helper.set_model_props(made, {"description": json.dumps(meta)})
    onnx.checker.check_model(made)
    onnx.save(made, str(path))


FORMATS: dict[str, tuple[str, Callable[[MeanOfSubnets, Mapping[str, Any], Path], None]]] = {
    "torchscript": (".ts", _write_torchscript),
    "onnx": (".onnx", _write_onnx),
}
"""{name: (suffix, what writes it)}."""
