# SPDX-License-Identifier: Apache-2.0
"""How good a model is on scans with a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, SaveImaged

from scripts.tensor_files import load_tensors

from ..labels import IGNORED
from .model import Model


@torch.no_grad()
def mean_dice(model: Model, cases: Sequence[Mapping[str, Any]], bundle: Path, device: torch.device) -> float:
    """Mean foreground Dice of a model's segmentations, on each scan's own grid, as a training validates (ours).

    Voxels that nobody has annotated are left out.

    Args:
        model: whose networks to use.
        cases: ``image`` and ``label`` of each scan.
        bundle: the bundle's folder.
        device: to compute on.

    Returns:
        Mean over the classes of a scan that its label has, then over the scans; 0 where no scan has any.
    """
    parser = model.parser(bundle)
    parser["device"] = str(device)
    preprocessing = parser.get_parsed_content("preprocessing")
    steps = parser.get_parsed_content("postprocessing").transforms
    postprocessing = Compose([step for step in steps if not isinstance(step, SaveImaged)])
    inferer = parser.get_parsed_content("inferer")
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(load_tensors(model.weights, device))
    read = Compose([LoadImage(image_only=True), EnsureChannelFirst()])
    metric = DiceMetric(include_background=False)
    for case in cases:
        data = preprocessing({"image": case["image"]})
        data["pred"] = inferer(data["image"][None].to(device), network)[0]
        found = postprocessing(data)["pred"].as_tensor()[None].cpu()
        label = read(case["label"]).as_tensor()[None]
        classes = parser.get_parsed_content("num_classes")
        drawn = label != IGNORED
        metric(one_hot(found * drawn, classes), one_hot(label * drawn, classes))
    return torch.nan_to_num(metric.aggregate()).item()
