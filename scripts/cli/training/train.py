# SPDX-License-Identifier: Apache-2.0
"""``dualseg train``: from a folder of scans to a model, its scores and a report."""

# No postponed annotations here: Fire shows them as they are.

import math
import re
import sys
import tempfile
import time as clock
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from ...bundle_files import CONFIGS, config_file
from ...data.io.regions import REGIONS, regions_of_option
from ...errors import DataError
from ...folds.plan import FEWEST
from ...runs.run import Run
from ..datalist_of_folder import datalist_of_folder
from ..words import text, words
from .bundle_command import parse_settings, run_bundle
from .folds import train_folds

__all__ = ["train"]

SHARE_FOR_STEPS = 0.9
"""Of the time that is given; the rest is for validation and for scoring."""
TRIAL_STEPS = 5
TRIAL = ["$@scripts.data.report_data_errors_briefly()", "$@check", "$@train#trainer.run()"]


def train(
    folder: str | None = None,
    *,
    labeled: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    names: str | None = None,
    ignore: int | None = None,
    values: Sequence[float] | None = None,
    regions: str | None = None,
    segments: str | None = None,
    unlabeled: str | None = None,
    channels: str | None = None,
    group: str | None = None,
    method: str | None = None,
    recipe: str | None = None,
    dataset: str = "folder",
    datalist: str = "datalist.json",
    time: str | None = None,
    folds: int | None = None,
    seed: int = 0,
    runs: str = "runs",
    set: Sequence[str] = (),
) -> int:
    """Train on a folder of scans; the same command again continues an interrupted training.

    Example: dualseg train scans --labeled 8 --validation 2 --test 10 --time 3h

    Args:
        folder: with images/ and, for some of them, labels/, or with a datalist; default: a small phantom.
        labeled: number of cases to keep the label of; default: all that have one.
        validation: number of labelled cases on which the best epoch is chosen; default: none.
        test: number of labelled cases to score at the end, which training never sees; default: none.
        names: of the classes, from 0 on, by commas: background,heart. Default: from dataset.json, or "class N".
        ignore: label value of voxels that nobody has labelled, such as 255; default: what dataset.json names "ignore".
        values: of the classes in the label files where these are not 0, 1, 2, ..., by commas, 0,1,2,4 or 0,255.
            Predictions have them, too.
        regions: unions of label values that overlap, to be scored in the place of the classes, as in
            "whole tumour=1+2+4,tumour core=1+4,enhancing tumour=4". Default is those of nnU-Net's dataset.json.
        segments: names of the structures in DICOM SEG and RTSTRUCT files that are the classes 1, 2, ..., by commas;
            default is all of them, by the alphabet.
        unlabeled: folder of further scans without labels; default is unlabeled/ or imagesTs/ beside the images.
        channels: ends of the names of the files that are the channels of a case, in their order, T1w,FLAIR.
        group: regular expression for the patient in the case name; no patient gets into two sections.
        method: one of those that "dualseg methods" lists, or a JSON file; default: that of configs/train.json.
        recipe: budget, cpu or paper or a JSON file; default: paper where there is a GPU, else cpu.
        dataset: config of the data, folder or the name of a public data set, or a JSON file.
        datalist: name of the datalist in the folder; it is made where it is missing.
        time: how long the training may take, such as 30m or 3h; a few steps are measured first.
        folds: train so many times, each time without some of the labelled scans, which are scored; their mean is an
            honest score without test scans, and "predict --model" with the folder of all folds averages them.
        seed: of everything random.
        runs: folder for the runs.
        set: KEY=VALUE, any value of the configs; may be given several times.
    """
    folder, method, recipe, time = text(folder), text(method), text(recipe), text(time)
    settings = parse_settings(set)
    seconds = None if time is None else _seconds(time)
    if folds is not None and (not isinstance(folds, int) or isinstance(folds, bool) or folds < FEWEST):
        raise DataError(f"--folds {folds}: must be a whole number from {FEWEST} on.")
    configs = [CONFIGS / "train.json"]
    options: dict[str, object] = {"runs_dir": Path(str(runs)).absolute(), "seed": seed}
    if folder is not None:
        where = Path(folder).absolute()
        if not where.is_dir():
            raise DataError(f"{folder}: no such folder. Name the folder that has your scans in images/.")
        configs.append(config_file("datasets", str(dataset), "--dataset"))
        recipe = recipe or ("paper" if torch.cuda.is_available() else "cpu")
        options |= {"dataset_dir": where, "datalist_name": str(datalist)}
    if recipe:
        configs.append(config_file("recipes", recipe, "--recipe"))
    if method:
        configs.append(config_file("methods", method, "--method"))
    if folder is not None:
        wanted = {"labeled": labeled, "validation": validation, "test": test}
        layout = {"unlabeled": text(unlabeled), "channels": words(channels) or None, "values": values, "group": group}
        layout["segments"] = words(segments) or None
        layout[REGIONS] = None if regions is None else regions_of_option(regions)
        classes = words(names) or None
        datalist_of_folder(where, str(datalist), wanted, classes, ignore, layout, scored=folds is not None)
    options |= settings
    if folds is not None:
        if folder is None:
            raise DataError("--folds: takes labelled scans in turns. Name the folder that has them.")
        share = None if seconds is None else seconds / folds
        options |= {} if time is None else {"_time_": time}
        return train_folds(configs, options, folds, None if share is None else partial(_epochs_within, share, time))
    if seconds is not None:
        options |= {"_time_": time, "max_epochs": _epochs_within(seconds, time, configs, options)}
    return run_bundle(configs, options, "training", "To go on with this training, give the same command again.")


def _seconds(time: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", time.strip())
    if found is None or float(found[1]) == 0:
        raise DataError(f"--time {time}: must be a number with s, m, h or d, such as 30m or 3h.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _epochs_within(seconds: float, time: str, configs: Sequence[Path], options: Mapping[str, object]) -> int:
    """How many epochs the time is enough for: those of an unfinished run with the same limit, or by measurement."""
    for run in _unfinished(Path(str(options["runs_dir"]))):
        config = run.config()
        if config.get("_time_") == time and all(str(config.get(key)) == str(value) for key, value in options.items()):
            return config["max_epochs"]
    start = clock.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        trial = {"max_epochs": 2, "epoch_length": TRIAL_STEPS, "val_interval": 3, "tensorboard": False}
        trial |= {"training": TRIAL, "runs_dir": scratch, "run_name": "trial"}
        sys.stderr.write(f"Measuring {2 * TRIAL_STEPS} steps ...\n")
        if run_bundle(configs, {**options, **trial}, "training", show=False):
            raise DataError("The steps could not be measured, see above. Correct that, or leave out --time.")
        step = Run(Path(scratch, "trial")).log.read()[-1]["step_seconds"]
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    length = int(options.get("epoch_length", parser.get_parsed_content("epoch_length")))
    left = seconds - (clock.monotonic() - start)
    epochs = max(1, math.floor(SHARE_FOR_STEPS * left / (step * length)))
    sys.stderr.write(f"{step:.2f} s a step: {epochs} epochs of {length} steps in {time}\n")
    return epochs


def _unfinished(runs_dir: Path) -> list[Run]:
    return [run for run in map(Run, runs_dir.glob("*/")) if run.config_file.exists() and not run.is_finished]
