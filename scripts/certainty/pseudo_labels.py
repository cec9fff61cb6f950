# SPDX-License-Identifier: Apache-2.0
"""Whole scans labelled by the networks themselves: which voxels and which scans of them to trust."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from ..data.datalist.write import write_datalist
from ..data.io.formats.names import prediction_name, result_name
from ..data.pseudo_labels import with_pseudo_labels
from ..errors import DataError
from ..inference import entropy_map
from ..losses.voxelwise import plain
from ..reports.cases import case_path

__all__ = ["SETTINGS", "MarkUncertaind", "PseudoLabelDatalist"]

SETTINGS = "self_training"
"""Key of a datalist that says by which settings its pseudo-labels were kept."""

logger = logging.getLogger(__name__)


class MarkUncertaind(MapTransform):
    """Adds a class to probabilities [C, *S], the last, which wins where the entropy of the others is high (ours).

    So what takes the argmax gives uncertain voxels the number C.

    Args:
        keys: of the probabilities.
        max_entropy: up to which a voxel is certain, as a fraction of the maximum (all classes alike).

    Raises:
        DataError: when ``max_entropy`` is no fraction.

    Example:
        >>> MarkUncertaind("pred", 0.5)({"pred": torch.tensor([[0.5, 0.99], [0.5, 0.01]])})["pred"].argmax(0)
        tensor([2, 0])
    """

    def __init__(self, keys: KeysCollection, max_entropy: float) -> None:
        super().__init__(keys)
        self.max_entropy = _fraction("max_entropy", max_entropy)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Mark the uncertain voxels, geometry and type unchanged."""
        item = dict(data)
        for key in self.key_iterator(item):
            probabilities = plain(item[key])
            uncertain = entropy_map(probabilities.float()) > self.max_entropy
            marked = torch.cat([probabilities, 2 * uncertain[None].to(probabilities)])  # no probability is above 1
            item[key] = convert_to_dst_type(marked, item[key])[0]
        return item


class PseudoLabelDatalist:
    """Writes a datalist in which the scans whose pseudo-labels are to be trusted are training scans (ours).

    Those on which the two networks agree most, by ``agreement`` of :class:`~.note.NoteCertaintyd`; of these none in
    which nothing was found. Voxels that a label marks as uncertain are left out by its ignored value.

    Args:
        datalist: with the unlabelled scans, from :func:`~..data.load_datalist`.
        output_dir: folder with the labels, ``NAME_seg.nii.gz``; the datalist goes there, too.
        name: of the datalist.
        keep: fraction of the scans to keep.
        max_entropy: with which the voxels were marked, for the record.

    Raises:
        DataError: when there is no unlabelled scan, ``keep`` is no fraction, or no scan can be kept.
    """

    def __init__(
        self, datalist: Mapping[str, Any], output_dir: str | os.PathLike, name: str, keep: float, max_entropy: float
    ) -> None:
        if not datalist["unlabeled"]:
            raise DataError("The datalist lists no unlabelled scan, so there is none to learn from.")
        self.datalist = datalist
        self.path = Path(output_dir, str(name))
        self.settings = {"keep": _fraction("keep", keep), "max_entropy": _fraction("max_entropy", max_entropy)}
        self.agreements: dict[str, float] = {}
        self.results: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator of all unlabelled scans, after the handler that loads the weights."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _started(self, engine: Engine) -> None:
        self.agreements = {}

    def _note(self, engine: Engine) -> None:
        for item in engine.state.output:
            name = prediction_name(case_path(item))
            self.agreements[name] = item["agreement"]
            self.results[name] = result_name(case_path(item))

    def _finish(self, engine: Engine) -> None:
        best = sorted(self.agreements, key=lambda name: (-self.agreements[name], name))
        kept = [name for name in best[: math.ceil(self.settings["keep"] * len(best))] if self.agreements[name] > 0]
        if not kept:
            raise DataError(f"{self.path.parent}: the networks find nothing in any unlabelled scan. Train them longer.")
        labels = {name: str(self.path.parent / self.results[name]) for name in kept}
        write_datalist(with_pseudo_labels(self.datalist, labels) | {SETTINGS: self.settings}, self.path, overwrite=True)
        logger.info("%d of %d pseudo-labelled scans are kept: %s", len(kept), len(best), self.path)


def _fraction(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise DataError(f"{name} {value!r}: must be a fraction above 0, at most 1.")
    return float(value)
