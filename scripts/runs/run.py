# SPDX-License-Identifier: Apache-2.0
"""A run is its folder: what lies in it, under which name, and what that says about the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import is_part, remove_parts, save_text
from .lock import LOCK, OWNER, lock_folder, unlock_folder
from .log import RunLog

__all__ = ["Run"]


class Run:
    """The folder of one training, or of one evaluation (ours).

    Every file name in it stands here and nowhere else; whoever writes to a run or reads it asks for the path.

    Args:
        folder: the folder; it need not exist yet.

    Attributes:
        folder: the folder.
        config_file: the merged config with all overrides, from the start on.
        record_file: when the run finished, with what; a run that has it is finished.
        state: all that the rest of a training depends on.
        previous_state: the ``state`` before, should that be damaged.
        evidence: batch and networks with which the loss was not finite, where a training gave up.
        inputs_file: what the run was made of: datalist, scans, code, number of processes.
        model: weights of both networks, those to use.
        best_model: weights of the best epoch so far on the validation scans.
        choice_file: which epoch ``model`` is from, and how it was chosen.
        start_file: which weights the run started from.
        inference_file: what configs/inference.json needs to use ``model``.
        scores_file: scores of every case, network and class.
        summary_file: their mean, standard deviation and median.
        table_file: the same as a table for people.
        report: the run as one page.
        pictures: folder of the pictures of cases.
        slices: folder of slices through the worst cases.
        slices_file: which cases these are.
        curves: picture of the training's course.
        tensorboard: folder of event files.
        certainty_file: calibration, and how the networks' agreement predicts Dice.
        largest_parts_file: classes of which inference keeps the largest part.
        evaluation: folder of a later evaluation.
        export_folder: folder of the model for other programs.
        folds_file: what a cross-validation is made of; a folder that has it holds a run for each fold.
        grid_file: config of the grid that the folds share.
        pseudo_labels: folder of labels that the model gave unlabelled scans, with a datalist of those to trust.
        review: scans in the order in which to label them.
        log: one record an epoch.

    Example:
        >>> Run("runs/phantom_mean_teacher_copy_paste_seed0").model.name
        'model.pt'
    """

    FILES = {
        "certainty.json": "calibration, and what the agreement of the networks says of Dice",
        "config.json": "the config of the run, all overrides merged",
        "inference.json": "override for configs/inference.json: how to use this model",
        "inputs.json": "checksums of datalist, scans and code, and the number of processes",
        "initial_weights.json": "which weights the run started from",
        "largest_parts.json": "structures of which inference keeps the largest part, as the labels are one piece",
        "last.pt": "state of the training, from which it resumes",
        "metrics.csv": "scores of every case, network and class",
        "metrics.json": "mean, standard deviation and median, with the conventions",
        "model.json": "which epoch model.pt is from, and how it was chosen",
        "model.pt": "weights of both networks, to use",
        "model_best.pt": "weights of the best epoch on the validation scans",
        "model_supervised.pt": "weights at the end of the supervised part, before the unlabelled scans",
        "not_finite.pt": "batch and networks with which the loss was not finite",
        "previous.pt": "the state before last.pt, should that be damaged",
        "pseudo_labels": "labels that the model gave unlabelled scans, and a datalist of those to trust",
        "report.html": "all of this as one page, for a browser",
        "results.md": "the table above",
        "review": "which unlabelled scans to label next",
        "review.json": "unlabelled scans with their uncertainty, those to label first at its top",
        "run.json": "when the run finished, and with which command, versions and hardware",
        "train_log.jsonl": "losses and pseudo-label statistics of every epoch",
        "evaluation": "scores of a later evaluation",
        "export": "the model for other programs",
        "folds.json": "of a cross-validation: what was asked for, and which scans each fold holds out",
        "grid.json": "of a cross-validation: the grid and intensities that its folds share",
        "pictures": "worst, median and best case; training curves",
        "tensorboard": "event files for TensorBoard",
    }
    """What a run's folder may hold, and what each is for."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.json"
        self.record_file = self.folder / "run.json"
        self.state = self.folder / "last.pt"
        self.previous_state = self.folder / "previous.pt"
        self.evidence = self.folder / "not_finite.pt"
        self.inputs_file = self.folder / "inputs.json"
        self.model = self.folder / "model.pt"
        self.best_model = self.folder / "model_best.pt"
        self.supervised_model = self.folder / "model_supervised.pt"
        self.choice_file = self.folder / "model.json"
        self.start_file = self.folder / "initial_weights.json"
        self.inference_file = self.folder / "inference.json"
        self.scores_file = self.folder / "metrics.csv"
        self.summary_file = self.folder / "metrics.json"
        self.table_file = self.folder / "results.md"
        self.pictures = self.folder / "pictures"
        self.report = self.folder / "report.html"
        self.slices = self.pictures / "slices"
        self.slices_file = self.slices / "slices.json"
        self.curves = self.pictures / "training_curves.png"
        self.tensorboard = self.folder / "tensorboard"
        self.review = self.folder / "review.json"
        self.review_folder = self.folder / "review"
        self.certainty_file = self.folder / "certainty.json"
        self.largest_parts_file = self.folder / "largest_parts.json"
        self.evaluation = self.folder / "evaluation"
        self.pseudo_labels = self.folder / "pseudo_labels"
        self.export_folder = self.folder / "export"
        self.folds_file = self.folder / "folds.json"
        self.grid_file = self.folder / "grid.json"
        self.log = RunLog(self.folder / "train_log.jsonl")

    @classmethod
    def find(cls, runs_dir: str | os.PathLike, name: str) -> list[Run]:
        """All runs of a name, finished or not: ``name``, ``name_2``, ``name_3`` ..., those last written to first."""
        own = re.compile(re.escape(name) + r"(_\d+)?")
        found = [cls(path) for path in Path(runs_dir).glob("*/") if own.fullmatch(path.name)]
        return sorted((run for run in found if run.config_file.exists()), key=cls._written, reverse=True)

    @classmethod
    def latest(cls, runs_dir: str | os.PathLike, name: str, **settings: Any) -> Run | None:
        """The newest finished run of a name, None when there is none.

        Args:
            runs_dir: folder of all runs.
            name: of the run; ``name_2``, ``name_3`` ... are runs of it, too.
            settings: values that the run's config has to have, such as its ``datalist_name``.
        """
        finished = [run for run in cls.find(runs_dir, name) if run.is_finished]
        if settings:
            finished = [run for run in finished if settings.items() <= run.config().items()]
        return max(finished, key=lambda run: run.record_file.stat().st_mtime, default=None)

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end."""
        return self.record_file.exists()

    @property
    def folds(self) -> list[Run]:
        """The runs of a cross-validation, one a fold; none in any other folder."""
        if not self.folds_file.exists():
            return []
        return [type(self)(self.folder / name) for name in _read(self.folds_file)["folds"]]

    @property
    def can_resume(self) -> bool:
        """Whether there is a state to go on from."""
        return self.state.exists() or self.previous_state.exists()

    @property
    def title(self) -> str:
        """The folder's name and when it was made, in UTC: a training that lay there before had another title."""
        if not self.config_file.exists():  # a folder of the user's own, which no run was started in
            return self.folder.name
        made = time.gmtime(self.config_file.stat().st_mtime)
        return f"{self.folder.name} {time.strftime('%Y-%m-%d %H:%M:%S', made)}"

    def config(self) -> dict[str, Any]:
        """The merged config, as written: expressions and references are text."""
        return _read(self.config_file)

    def record(self) -> dict[str, Any]:
        """When the run finished, with which command, versions and hardware."""
        return _read(self.record_file)

    def finish(self, record: Mapping[str, Any], inference: Mapping[str, Any]) -> None:
        """Mark the run as finished, last of all and at once.

        Args:
            record: see :meth:`record`.
            inference: the override for configs/inference.json.
        """
        self.note_inference(inference)
        _write(self.record_file, record)
        unlock_folder(self.folder)

    def finish_folds(self, record: Mapping[str, Any]) -> None:
        """Mark a cross-validation as finished, last of all.

        Args:
            record: when.
        """
        _write(self.record_file, record)

    def inference(self) -> dict[str, Any]:
        """The override for configs/inference.json with which the model can be used."""
        return _read(self.inference_file)

    def note_inference(self, inference: Mapping[str, Any]) -> None:
        """Write :meth:`inference`."""
        _write(self.inference_file, inference)

    def choice(self) -> dict[str, Any]:
        """Which epoch the model is from, how it was chosen, and the numbers of epochs and iterations."""
        return _read(self.choice_file)

    def note_choice(self, choice: Mapping[str, Any]) -> None:
        """Write :meth:`choice`."""
        _write(self.choice_file, choice)

    def initial_weights(self) -> str | None:
        """Path of the weights that the run started from; None when they were random."""
        return _read(self.start_file).get("path") if self.start_file.exists() else None

    def note_initial_weights(self, path: str, **matches: list[str]) -> None:
        """Write :meth:`initial_weights`; of another program's weights, which of their tensors were taken."""
        _write(self.start_file, {"path": path, **matches})

    def inputs(self) -> dict[str, Any]:
        """What the run was made of: checksums of datalist, scans and code, versions, number of processes, changes."""
        return _read(self.inputs_file)

    def note_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Write :meth:`inputs`."""
        _write(self.inputs_file, inputs)

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation and median of the scores, with the conventions."""
        return _read(self.summary_file)

    def certainty(self) -> dict[str, Any]:
        """Calibration, and how the networks' agreement predicts Dice; empty where it has not been measured."""
        return _read(self.certainty_file) if self.certainty_file.exists() else {}

    def largest_parts(self) -> list[int]:
        """Classes of which inference keeps the largest part; none where that was not looked at."""
        return _read(self.largest_parts_file)["classes"] if self.largest_parts_file.exists() else []

    def note_largest_parts(self, classes: Sequence[int]) -> None:
        """Write :meth:`largest_parts`."""
        _write(self.largest_parts_file, {"classes": list(classes)})

    def training_seconds(self) -> float:
        """Time of all training steps, from the log."""
        return sum(record.get("seconds", 0) for record in self.log.read())

    def drop_state(self) -> None:
        """Remove what only an unfinished training needs: the state, and the best epoch's copy of the weights."""
        for path in (self.state, self.previous_state, self.best_model):
            path.unlink(missing_ok=True)

    def drop_weights(self) -> None:
        """Remove all weights, curves and pictures; what the run was made of and how it went stays."""
        self.drop_state()
        for path in (self.model, self.supervised_model):
            path.unlink(missing_ok=True)
        for folder in (self.tensorboard, self.pictures):
            shutil.rmtree(folder, ignore_errors=True)

    def listing(self) -> list[tuple[str, str]]:
        """What the folder holds, files first, and what each is for ("" for what is no part of a run)."""
        rows = []
        for path in sorted(self.folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
            name = path.name
            if name in (LOCK, OWNER):
                continue
            if path.is_dir():
                count = sum(file.is_file() for file in path.rglob("*"))
                name += f"/ ({count} file{'s' * (count != 1)})"
            rows.append((name, self.FILES.get(path.name, "")))
        return rows

    def _written(self) -> float:
        """When the config or the log was last written to."""
        return max(path.stat().st_mtime if path.exists() else 0 for path in (self.config_file, self.log.path))

    def create(self, config: Mapping[str, Any]) -> bool:
        """Make the folder with its config, locked for this process; False if there is a folder already.

        A folder without anything whole in it is what a start left that was killed, and counts as none.

        Raises:
            DataError: when it cannot be written.
        """
        made = False
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.folder.mkdir()
                made = True
            except FileExistsError:
                if not self._stays_empty():
                    return False
            lock_folder(self.folder)
            if self.config_file.exists():  # another process was first
                return False
            remove_parts(self.folder)
            _write(self.config_file, config)
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error.strerror}). Make room, or name a folder of yours with "
                "--runs_dir."
            ) from error
        finally:
            if made and not self.config_file.exists():
                unlock_folder(self.folder)
                shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _stays_empty(self, seconds: float = 5.0) -> bool:
        """Whether a start was killed here; another process may also just be writing its config."""
        end = time.monotonic() + seconds
        while self.folder.is_dir() and all(
            path.name in (LOCK, OWNER) or is_part(path) for path in self.folder.iterdir()
        ):
            if time.monotonic() > end or not (self.folder / LOCK).exists():
                return True
            time.sleep(0.05)
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing. Put back a copy, or move the folder away.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise DataError(f"{path}: damaged. Put back a copy, or move the folder away.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: damaged. Put back a copy, or move the folder away.")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    save_text(json.dumps(content, indent=2) + "\n", path)
