# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.utils import CommonKeys as Keys
from scipy import ndimage
from torch import Tensor, nn

from ..hardware import available_memory
from ..losses.labelers.largest_component import LargestComponent
from ..progress import track
from ..ranks import is_main_process
from ..runs.run import Run

__all__ = ["is_one_piece", "learn_largest_parts"]

WHOLE = 0.99
"""Share of a structure in its largest part from which it is one piece: a stray voxel of a label does not count."""
SCANS = 16
"""So many labelled scans are segmented, at most."""

BYTES_A_CLASS = 16
"""Of a voxel, for each class, while a scan is segmented and brought back to its own grid."""
SHARE = 0.6
"""Of the free memory that a scan may take; a larger one is not looked at."""

logger = logging.getLogger(__name__)


class Seen(NamedTuple):
    """Of one class in one scan: whether its label is one piece, and the Dice as predicted and of the largest part."""

    one_piece: bool
    dice: float
    of_largest: float


@torch.no_grad()
def learn_largest_parts(
    output_dir: str | os.PathLike,
    data: Mapping[str, Sequence[Mapping[str, Any]]],
    network: nn.Module,
    inferer: Callable[[Tensor, nn.Module], Tensor],
    preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    postprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    labels: Mapping[str, str],
    device: torch.device | str,
) -> None:
    """Find the structures of which inference keeps the largest connected part, and note them in the run's folder.

    Those are the classes that are one piece in the label of every scan looked at, and whose Dice with the networks'
    segmentations of these scans does not fall when only the largest part is kept. The scans are the first ``SCANS`` for
    validation, or labelled ones of the training where there are none; no test scan, none that would not fit the memory.

    Source: ours; asking held-back labels is nnU-Net's (Isensee et al., Nature Methods 2021).

    Args:
        output_dir: the run's folder.
        data: datalist, with ``validation`` and ``training``.
        network: with which to segment, as trained.
        inferer: MONAI inferer, such as a sliding window.
        preprocessing: of an item with the files of ``image`` and ``label``: both [channels,*S].
        postprocessing: of an item with ``pred`` (log-probabilities [C,*S]) and ``label`` [1,*S']: both one-hot [C,*S'],
            on the scan's own grid.
        labels: {class index: name}, of all classes.
        device: of the network.
    """
    if not is_main_process():
        return
    scans = [scan for scan in data["validation"] or data["training"] if Keys.LABEL in scan][:SCANS]
    names = {int(number): name for number, name in labels.items() if int(number)}
    seen: dict[int, list[Seen]] = {number: [] for number in names}
    loader = DataLoader(Dataset(scans, preprocessing), batch_size=1)
    room = SHARE * available_memory()
    was_training = network.training
    network.eval()
    for batch in track(loader, len(scans), "Are structures one piece?"):
        if max(batch[key][0, 0].numel() for key in (Keys.IMAGE, Keys.LABEL)) * len(labels) * BYTES_A_CLASS > room:
            continue
        batch[Keys.IMAGE] = batch[Keys.IMAGE].to(device)
        batch[Keys.PRED] = inferer(batch[Keys.IMAGE], network)
        (item,) = (postprocessing(one) for one in decollate_batch(batch))
        predicted, label = (torch.as_tensor(item[key]).cpu().argmax(0) for key in (Keys.PRED, Keys.LABEL))
        largest = LargestComponent()(predicted[None, None])[0][0, 0]
        for number, found in seen.items():
            own = label == number
            if own.any():
                dice = (_dice(one == number, own) for one in (predicted, largest))
                found.append(Seen(is_one_piece(own.numpy()), *dice))
    network.train(was_training)
    kept = [number for number, found in seen.items() if found and _helps(found)]
    Run(output_dir).note_largest_parts(kept)
    if kept:
        logger.info(
            "Inference keeps the largest part of %s: one piece in all labels looked at. To keep all parts: "
            "--largest none (dualseg predict), --largest_component [] (monai.bundle).",
            ", ".join(names[number] for number in kept),
        )


def is_one_piece(structure: np.ndarray) -> bool:
    """Whether nearly all of a structure, bool [*S] and not empty, is in one part, connected through faces."""
    parts, number = ndimage.label(structure)
    return number == 1 or bool(np.bincount(parts.ravel())[1:].max() >= WHOLE * structure.sum())


def _helps(found: Sequence[Seen]) -> bool:
    before, after = (sum(values) for values in zip(*((one.dice, one.of_largest) for one in found), strict=True))
    return all(one.one_piece for one in found) and after >= before


def _dice(predicted: Tensor, label: Tensor) -> float:
    return float(2 * (predicted & label).sum() / (predicted.sum() + label.sum()))
