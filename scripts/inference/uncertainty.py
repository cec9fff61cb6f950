# SPDX-License-Identifier: Apache-2.0
"""Where a segmentation may be wrong: entropy of the ensemble, disagreement of its two networks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor

from ..data.io.formats.names import prediction_name
from ..data.io.formats.nifti import save_nifti
from ..data.transforms.plane import volume_of_plane

__all__ = ["SaveUncertaintyd", "disagreement_map", "entropy_map", "temper"]


def entropy_map(probabilities: Tensor, dim: int = 0) -> Tensor:
    """
    Entropy of class probabilities as a fraction of its maximum: 0 sure, 1 all classes alike.

    Args:
        probabilities: [C, *S]; of other layouts ``dim`` is that of the classes.
        dim: dimension of the classes.
    """
    return torch.special.entr(probabilities).sum(dim) / math.log(probabilities.shape[dim])


def disagreement_map(a: Tensor, b: Tensor, dim: int = 0) -> Tensor:
    """
    Total variation distance of two networks' class probabilities: 0 the same, 1 sure of different classes.

    Args:
        a: probabilities [C, *S].
        b: likewise.
        dim: dimension of the classes.
    """
    return (a - b).abs().sum(dim) / 2


def temper(probabilities: Tensor, temperature: float, dim: int = 0) -> Tensor:
    """Probabilities whose logarithms are divided by a temperature, normalised again.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Args:
        probabilities: with the classes along ``dim``.
        temperature: above 1 less sure, below 1 surer.
        dim: dimension of the classes.
    """
    return (probabilities.float().clamp_min(1e-7).log() / temperature).softmax(dim)


class SaveUncertaintyd(Transform):
    """Write ``NAME_entropy.nii.gz`` and ``NAME_disagreement.nii.gz`` on the scan's grid, float32 from 0 to 1 (ours).

    It takes the probabilities ``pred``, ``pred_a`` and ``pred_b`` [C, *S], MetaTensors on the scan's grid.

    Args:
        output_dir: folder to write to.
        temperature: of the ensemble's probabilities for the entropy, as held-back labels gave it.

    Raises:
        DataError: when a file cannot be written.
    """

    def __init__(self, output_dir: str, temperature: float = 1.0) -> None:
        self.output_dir = Path(output_dir)
        self.temperature = temperature

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Write both maps and hand the item on as it is."""
        pred = data["pred"]
        name = prediction_name(pred.meta["filename_or_obj"])
        a, b, both = (data[key].as_tensor().float() for key in ("pred_a", "pred_b", "pred"))
        for kind, values in (
            ("entropy", entropy_map(temper(both, self.temperature))),
            ("disagreement", disagreement_map(a, b)),
        ):
            on_scan = MetaTensor(values.clamp(0, 1)[None], meta=pred.meta)
            save_nifti(*volume_of_plane(on_scan), self.output_dir / f"{name}_{kind}.nii.gz")
        return data
