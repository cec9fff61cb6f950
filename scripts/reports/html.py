# SPDX-License-Identifier: Apache-2.0
"""A run as one page: no network, no other file."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from ..files import save_text
from ..ranks import is_main_process
from ..runs.run import Run
from .cases import foreground_names
from .compare import case_scores
from .pictures import LABEL_COLOURS, PRED_COLOURS
from .statistics import agreement_quality

__all__ = ["report_page", "write_report"]

MEASURES = {
    "dice": ("Dice", 3),
    "jaccard": ("Jaccard", 3),
    "surface_dice": ("surface Dice", 3),
    "hd95_mm": ("HD95, mm", 2),
    "asd_mm": ("ASD, mm", 2),
    "volume_error_ml": ("volume error, ml", 2),
}

logger = logging.getLogger(__name__)


def write_report(folder: str | os.PathLike) -> Path | None:
    """Write report.html into the folder of a run or of an evaluation, on the first rank (ours).

    Args:
        folder: with any of the files of a :class:`~scripts.runs.Run`; what is missing is left out.

    Returns:
        Path of the page; None on other ranks.
    """
    if not is_main_process():
        return None
    run = Run(folder)
    save_text(report_page(run), run.report)
    logger.info("Report: %s", run.report)
    return run.report


def report_page(run: Run) -> str:
    """The page, as text. All names and texts of a user are escaped in it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    summary = run.summary() if run.summary_file.is_file() else None
    cases = case_scores(run) if run.scores_file.is_file() else {}
    quality, scatter = _quality(cases)
    planes = {rank: _embedded(run.pictures / f"{rank}.png") for rank in ("worst", "median", "best")}
    return environment.get_template("report.html.j2").render(
        title=run.folder.resolve().name,
        facts=_facts(run),
        curves=_embedded(run.curves),
        summary=_summary(summary),
        conventions={} if summary is None else summary["conventions"],
        columns=[heading for heading, _ in MEASURES.values()],
        cases=_cases(cases),
        quality=quality,
        quality_picture=scatter,
        planes=[(rank, picture) for rank, picture in planes.items() if picture],
        strips=_strips(run),
        legend=_legend(summary),
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = []
    if run.config_file.is_file():
        config = run.config()
        keys = ("method_name", "dataset_name", "dataset_dir", "datalist_name", "seed", "max_epochs", "epoch_length")
        keys += ("learning_rate", "batch_size", "unlabeled_batch_size", "patch_size", "spacing", "initial_weights")
        facts += [(key, str(config[key])) for key in keys if config.get(key) is not None]
    if run.choice_file.is_file():
        choice = run.choice()
        facts.append(("model", f"epoch {choice['epoch']} of {choice['epochs']}: {choice['chosen']}"))
    if seconds := run.training_seconds():
        facts.append(("time of all steps", str(timedelta(seconds=round(seconds)))))
    facts += [(fold.folder.name, _fold(fold)) for fold in run.folds]
    if calibration := run.certainty().get("calibration"):
        tempered = calibration["ece_tempered"]
        after = "" if tempered is None else f"; {tempered:.3f} with a temperature from the other scans"
        facts.append(("calibration error", f"{calibration['ece']:.3f}{after}, {calibration['temperature']:g} from all"))
    if run.is_finished and not run.folds:
        record = run.record()
        facts += [("finished", record["finished"]), ("device", record["device"])]
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())))
        facts.append(("command", " ".join(record["command"])))
    return facts


def _fold(fold: Run) -> str:
    """What one fold of a cross-validation has given."""
    if not fold.summary_file.is_file():
        return "no scores"
    summary = fold.summary()
    dice = next(iter(summary["networks"].values()))["mean_foreground"]["dice"]["mean"]
    return f"{summary['cases']} scans held out" + ("" if dice is None else f", Dice {dice:.3f}")


def _summary(summary: dict[str, Any] | None) -> list[tuple[str, str, list[str]]]:
    """(network, class, a cell for each measure), the network judged last."""
    if summary is None:
        return []
    rows = []
    networks = list(summary["networks"].items())
    for network, scores in networks[1:] + networks[:1]:
        groups = dict(scores["classes"])
        if len(groups) > 1:
            groups["mean"] = scores["mean_foreground"]
        rows += [
            (network, name, [_interval(found.get(m), MEASURES[m][1]) for m in MEASURES])
            for name, found in groups.items()
        ]
    return rows


def _interval(found: dict[str, Any] | None, digits: int) -> str:
    """``mean (low to high)``; empty for a measure that older files lack."""
    if found is None or found["mean"] is None:
        return ""
    interval = found.get("ci95")
    bounds = "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
    return f"{found['mean']:.{digits}f}{bounds}"


def _cases(cases: dict[str, dict[str, dict[str, float]]]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(case, class, (text, value to sort by) for each measure), the worst case first."""
    rows = []
    order = sorted(cases, key=lambda case: (math.inf if math.isnan(d := cases[case]["mean"]["dice"]) else d, case))
    for case in order:
        classes = cases[case]
        for name in classes if len(classes) > 2 else [name for name in classes if name != "mean"]:
            values = [(classes[name].get(measure, math.nan), digits) for measure, (_, digits) in MEASURES.items()]
            rows.append((case, name, [("" if math.isnan(v) else f"{v:.{d}f}", str(v)) for v, d in values]))
    return rows


def _quality(cases: dict[str, dict[str, dict[str, float]]]) -> tuple[dict[str, Any] | None, str]:
    """What the networks' agreement predicts, and a picture of it; nothing for a file without agreements."""
    means = [classes["mean"] for classes in cases.values()]
    pairs = [(mean.get("agreement", math.nan), mean["dice"]) for mean in means]
    pairs = [pair for pair in pairs if not any(map(math.isnan, pair))]
    quality = agreement_quality(*zip(*pairs, strict=True)) if pairs else None
    if quality is None:
        return None, ""
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.subplots()
    true = [dice for _, dice in pairs]
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    axes.scatter(quality["predicted"], true, s=18)
    low = max(0.0, min(*quality["predicted"], *true) - 0.05)
    axes.set(xlabel="predicted Dice", ylabel="Dice with the label", xlim=(low, 1), ylim=(low, 1))
    axes.grid(alpha=0.3)
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return quality, text.getvalue()[text.getvalue().index("<svg") :]


def _strips(run: Run) -> list[dict[str, Any]]:
    if not run.slices_file.is_file():
        return []
    listed = json.loads(run.slices_file.read_text(encoding="utf-8"))
    return [entry | {"image": _embedded(run.slices / entry["file"])} for entry in listed]


def _legend(summary: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """(class, colour of its label, colour of its prediction)."""
    names = [] if summary is None else list(foreground_names({"0": "background", **summary["labels"]}).values())
    return [
        (name, LABEL_COLOURS[index % len(LABEL_COLOURS)], PRED_COLOURS[index % len(PRED_COLOURS)])
        for index, name in enumerate(names)
    ]


def _embedded(path: Path) -> str:
    """A PNG file as an address that holds it; empty where there is none."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""
