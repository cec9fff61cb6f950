# SPDX-License-Identifier: Apache-2.0
"""Predictions in the order in which a person should look at them."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from ..data.io.formats.names import prediction_name
from ..errors import DataError
from ..files import replace_file
from ..reports.cases import case_path, scored_structures, structure_mask
from ..runs.run import Run

__all__ = ["ReviewCsv", "learnt_certainty", "predicted_dice"]

FILE = "review.csv"
UNITS = {3: "ml", 2: "cm2"}

logger = logging.getLogger(__name__)


class ReviewCsv:
    """Writes review.csv into the folder of predictions, those to look at first at its top (ours).

    Columns: ``scan`` (its name), ``predicted_dice`` (empty where the run has no four scored scans to learn it from),
    ``agreement`` and ``entropy`` of :class:`NoteCertaintyd`, ``NAME ml`` with the volume of each class or region (of 2D
    images ``NAME cm2``), and ``image``. The least agreement comes first. Rows of earlier predictions into the same
    folder stay.

    Args:
        labels: {class index: name} with background 0.
        output_dir: folder of the predictions.
        model: weights of a run; the certainty.json beside it or in its evaluation says what an agreement is worth.
        regions: {name: class indices} of a model of regions, whose volumes are listed then.
    """

    def __init__(
        self,
        labels: Mapping[int | str, str],
        output_dir: str | os.PathLike,
        model: str | os.PathLike,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.structures = scored_structures(labels, regions)
        self.path = Path(output_dir, FILE)
        self.line = learnt_certainty(Run(Path(model).parent)).get("predicted_dice")
        self.rows: dict[str, dict[str, Any]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _started(self, engine: Engine) -> None:
        self.rows = {}

    def _note(self, engine: Engine) -> None:
        for item in engine.state.output:
            dims = item["pred"].ndim - 1
            voxel = float(np.prod(item["pred"].pixdim.tolist()[:dims])) / 10**dims
            pred = item["pred"].as_tensor()
            masks = {name: structure_mask(pred, classes) for name, classes in self.structures.values()}
            sizes = {f"{name} {UNITS[dims]}": int(mask.sum()) * voxel for name, mask in masks.items()}
            self._add(case_path(item), item["agreement"], item["entropy"], sizes)

    def _add(self, image: str, agreement: float, entropy: float, sizes: Mapping[str, float]) -> None:
        """Note one scan, with the size of each class or region by its column."""
        predicted = "" if self.line is None else f"{predicted_dice(self.line, agreement):.3f}"
        row = {"scan": prediction_name(image), "predicted_dice": predicted}
        row |= {"agreement": f"{agreement:.4f}", "entropy": f"{entropy:.4f}"}
        row |= {column: f"{size:.3f}" for column, size in sizes.items()}
        self.rows[row["scan"]] = row | {"image": image}

    def _finish(self, engine: Engine) -> None:
        rows = {**_earlier(self.path), **self.rows}
        if not rows:
            return
        columns = dict.fromkeys(key for row in self.rows.values() for key in row) or list(next(iter(rows.values())))
        ordered = sorted(rows.values(), key=lambda row: (float(row["agreement"]), row["scan"]))
        with replace_file(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns), restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(ordered)
        logger.info("%d scans segmented; in which order to look at them: %s", len(self.rows), self.path)


def predicted_dice(line: Mapping[str, float], agreement: float) -> float:
    """Dice on a line with ``slope`` and ``offset``, from 0 to 1."""
    return float(np.clip(line["slope"] * agreement + line["offset"], 0, 1))


def learnt_certainty(run: Run) -> dict[str, Any]:
    """What certainty.json says; empty when there is none (ours).

    It is that of the cross-validation that the run is a fold of; else that of the run or of its evaluation, whichever
    is newer.

    Raises:
        DataError: when it is damaged.
    """
    whole = Run(run.folder.parent)
    places = [whole] if whole.folds_file.is_file() else [run, Run(run.evaluation)]
    files = [place.certainty_file for place in places if place.certainty_file.is_file()]
    if not files:
        return {}
    newest = max(files, key=lambda file: file.stat().st_mtime)
    try:
        found = json.loads(newest.read_text(encoding="utf-8"))
        known = {key: found[key] for key in ("predicted_dice", "calibration")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{newest}: damaged. Delete it, or give `dualseg evaluate` again.") from error
    return known


def _earlier(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if any(not {"scan", "agreement"} <= row.keys() for row in rows):
        raise DataError(f"{path}: not a list of this program. Move it, or name another folder for the results.")
    return {row["scan"]: row for row in rows}
