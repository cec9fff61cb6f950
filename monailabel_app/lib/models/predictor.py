# SPDX-License-Identifier: Apache-2.0
"""What both networks of a model say of a scan, as logits on their grid or as probabilities on the scan's."""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import SimpleITK
import torch
from monai.data import MetaTensor
from monai.transforms import Activationsd, Compose, Invertd
from monailabel.utils.others.generic import file_ext

from scripts.tensor_files import load_tensors

from .model import Model

KEYS = ("pred", "pred_a", "pred_b")


class Predictor:
    """Both networks of a model (ours).

    Args:
        model: whose networks to use.
        bundle: the bundle's folder.
        device: to compute on.

    Attributes:
        channels: that a scan must have.
    """

    def __init__(self, model: Model, bundle: Path, device: torch.device) -> None:
        parser = model.parser(bundle)
        parser["device"] = str(device)
        self.device = device
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        self.ensemble = parser.get_parsed_content("network").eval()
        self.channels = parser.get_parsed_content("in_channels")
        self.ensemble.load_state_dict(load_tensors(model.weights, device))
        self.postprocessing = Compose(
            [
                Activationsd(KEYS, softmax=True),
                Invertd(KEYS, self.preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True),
            ]
        )

    @torch.no_grad()
    def logits(self, image: str) -> tuple[torch.Tensor, ...]:
        """The scan as the networks see it [C_in,*S], and their logits.

        The latter are those of the first network, of the second, and the logarithm of the mean of their probabilities,
        each [1,C,*S].
        """
        data, logits = self._run(image)
        return data["image"].as_tensor(), *logits

    @torch.no_grad()
    def probabilities(self, image: str) -> dict[str, MetaTensor]:
        """``pred`` of the ensemble, ``pred_a`` and ``pred_b``, each [C,*S] on the scan's own grid."""
        data, (a, b, both) = self._run(image)
        data |= {key: logits[0].cpu() for key, logits in zip(KEYS, (both, a, b), strict=True)}
        data = self.postprocessing(data)
        return {key: data[key] for key in KEYS}

    def _run(self, image: str) -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
        data = self.preprocessing({"image": image})
        return data, self.inferer(data["image"].as_tensor()[None].to(self.device), self.ensemble.members)


def save_on_scan(voxels: np.ndarray, image: str, suffix: str | None = None) -> str:
    """Write a volume [H,W,D] with the scan's geometry to a temporary file; its path.

    Args:
        voxels: on the scan's grid.
        image: file of the scan.
        suffix: of the file; None: that of the scan.
    """
    volume = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose()))
    volume.CopyInformation(SimpleITK.ReadImage(image))
    with NamedTemporaryFile(suffix=suffix or file_ext(image), delete=False) as file:
        SimpleITK.WriteImage(volume, file.name, useCompression=True)
    return file.name
