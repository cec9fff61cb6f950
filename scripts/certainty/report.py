# SPDX-License-Identifier: Apache-2.0
"""How well the networks know what they do not know, measured on scans whose labels were held back."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.metrics import compute_dice

from ..files import save_text
from ..ranks import gather_on_all, is_main_process
from ..reports.cases import annotated_structures, case_path, ignored_voxels, scored_structures, structure_mask
from ..reports.statistics import agreement_quality
from ..runs.run import Run
from .calibration import TEMPERATURES, fit_temperature

__all__ = ["CertaintyReport", "certainty_cases", "certainty_of", "write_certainty"]

ONE = TEMPERATURES.index(1.0)

logger = logging.getLogger(__name__)


class CertaintyReport:
    """Writes certainty.json after an evaluation whose postprocessing has noted certainty and calibration (ours).

    All processes gather; the first one writes.

    Args:
        labels: {class index: name} with background 0.
        output_dir: folder to write to.
        regions: {name: class indices} of a data set that is scored by regions; the Dice is theirs then.
    """

    def __init__(
        self,
        labels: Mapping[int | str, str],
        output_dir: str | os.PathLike,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.structures = scored_structures(labels, regions)
        self.run = Run(output_dir)
        self.cases: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _started(self, engine: Engine) -> None:
        self.cases = []

    def _note(self, engine: Engine) -> None:
        for item in engine.state.output:
            case = {"image": case_path(item), "dice": self._dice(item["pred"], item["label"]), **item["calibration"]}
            self.cases.append(case | {key: item[key] for key in ("agreement", "entropy")})

    def _dice(self, pred: torch.Tensor, label: torch.Tensor) -> float:
        """Mean over annotated structures that prediction or label has, over annotated voxels; nan for none."""
        known = ~ignored_voxels(label)
        masks = [
            (structure_mask(pred, classes) & known, structure_mask(label, classes))
            for _, classes in annotated_structures(label, self.structures).values()
        ]
        if not masks:
            return math.nan
        both = (
            torch.stack([mask.as_subclass(torch.Tensor) for mask in side])[None].float()
            for side in zip(*masks, strict=True)
        )
        return float(compute_dice(*both, include_background=True).nanmean())

    def _finish(self, engine: Engine) -> None:
        self.cases = list(itertools.chain(*gather_on_all(self.cases)))
        cases = list({case["image"]: case for case in sorted(self.cases, key=lambda case: case["image"])}.values())
        if is_main_process() and cases:
            write_certainty(self.run, cases)


def write_certainty(run: Run, cases: Sequence[dict[str, Any]]) -> None:
    """Write certainty.json, with the cases, and log what it says.

    Args:
        run: folder to write to.
        cases: as for :func:`certainty_of`.
    """
    found = certainty_of(cases)
    kept = [{key: None if value != value else value for key, value in case.items()} for case in cases]
    save_text(json.dumps({**found, "cases": kept}, allow_nan=False) + "\n", run.certainty_file)
    for line in _sentences(found):
        logger.info(line)


def certainty_cases(run: Run) -> list[dict[str, Any]]:
    """The cases in certainty.json; none where there is no such file."""
    if not run.certainty_file.is_file():
        return []
    cases = json.loads(run.certainty_file.read_text(encoding="utf-8"))["cases"]
    return [{key: math.nan if value is None else value for key, value in case.items()} for case in cases]


def certainty_of(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What held-back labels say of the networks' certainty (ours).

    Args:
        cases: each with ``image``, ``agreement``, ``entropy``, ``dice`` (nan: no structure in label and prediction) and
            ``ece``, ``nll`` at each of :data:`TEMPERATURES`.

    Returns:
        ``calibration``: ``ece`` as it is, ``temperature`` fitted on all scans, and ``ece_tempered``, where each scan
        has the temperature that the others give (None for a single scan). ``predicted_dice``: the line ``slope`` and
        ``offset`` from agreement to Dice, and how good that is leave-one-out: mean absolute ``error``, Spearman's
        ``correlation``, area under the risk-coverage curve with the ``best`` possible and a ``random`` order; None for
        fewer than 4 scans. ``scans``: how many labels they are from.
    """
    measured = [case for case in cases if case["nll"]]
    likelihoods = [case["nll"] for case in measured]
    result: dict[str, Any] = {"scans": len(cases), "calibration": None, "predicted_dice": None}
    if measured:
        tempered = None
        if len(measured) > 1:
            others = [fit_temperature(likelihoods[:i] + likelihoods[i + 1 :]) for i in range(len(measured))]
            errors = [case["ece"][TEMPERATURES.index(t)] for case, t in zip(measured, others, strict=True)]
            tempered = float(np.mean(errors))
        result["calibration"] = {
            "ece": float(np.mean([case["ece"][ONE] for case in measured])),
            "ece_tempered": tempered,
            "temperature": fit_temperature(likelihoods),
        }
    scored = [case for case in cases if not np.isnan(case["dice"])]
    agreement, dice = ([case[key] for case in scored] for key in ("agreement", "dice"))
    if (quality := agreement_quality(agreement, dice)) is not None:
        constant = np.ptp(agreement) == 0
        slope, offset = (0.0, float(np.mean(dice))) if constant else np.polyfit(agreement, dice, 1)
        quality.pop("predicted")
        result["predicted_dice"] = {"slope": float(slope), "offset": float(offset), **quality}
    return result


def _sentences(found: dict[str, Any]) -> list[str]:
    lines = []
    if calibration := found["calibration"]:
        after = "" if calibration["ece_tempered"] is None else f", {calibration['ece_tempered']:.3f} with a temperature"
        lines.append(f"Expected calibration error {calibration['ece']:.3f}{after}")
    if quality := found["predicted_dice"]:
        related = "none" if quality["correlation"] is None else f"{quality['correlation']:.2f}"
        lines.append(
            f"Dice predicted from the networks' agreement: off by {quality['error']:.3f}, correlation {related}, risk-"
            f"coverage area {quality['risk_coverage']:.3f} (best {quality['best']:.3f}, random {quality['random']:.3f})"
        )
    return lines
