# SPDX-License-Identifier: Apache-2.0
"""``dualseg selftrain``: the networks label whole scans, and learn from those that can be trusted."""

# No postponed annotations here: Fire shows them as they are.

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...bundle_files import CONFIGS, config_file, program_config
from ...certainty import SETTINGS
from ...data.datalist.read import read_content
from ...errors import DataError
from ...runs.run import Run
from .bundle_command import parse_settings, run_bundle
from .find_model import find_run, newest_run

__all__ = ["selftrain"]

GO_ON = "To go on, give the same command again."


def selftrain(
    run: str | None = None,
    *,
    rounds: int = 1,
    keep: float = 0.8,
    entropy: float = 0.5,
    runs: str = "runs",
    set: Sequence[str] = (),
) -> int:
    """Label whole unlabelled scans by a run's networks and go on training with those to trust, too.

    The mean of both networks and of mirrored views labels. Voxels of high entropy are left out, and scans on which the
    networks disagree. Each round is a run of its own, RUN_selftrain1 and so on, which starts from the weights before.
    The same command again continues what was interrupted.

    Example: dualseg selftrain runs/scans_mean_teacher_copy_paste_seed0 --rounds 2

    Args:
        run: folder of the run to start from; default: the newest one.
        rounds: how often to label and train.
        keep: fraction of the scans that are kept, those on which the two networks agree most.
        entropy: up to which a voxel is kept, as a fraction of the maximum, from 0 to 1.
        runs: folder of the runs, to find the newest one.
        set: KEY=VALUE, any value of the configs, for the trainings; may be given several times.
    """
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise DataError(f"--rounds {rounds}: must be a whole number from 1 on.")
    first = find_run(str(run)) if run is not None else newest_run(str(runs))
    settings = {"keep": keep, "max_entropy": entropy}
    teacher = first
    for number in range(1, rounds + 1):
        student = Run(first.folder.with_name(f"{first.folder.name}_selftrain{number}"))
        sys.stderr.write(f"Round {number} of {rounds}: {student.folder}\n")
        if code := _label(first, teacher, settings) or _train(first, teacher, student, parse_settings(set)):
            return code
        teacher = student
    sys.stderr.write(f"To segment scans with it: dualseg predict IN OUT --model {teacher.folder}\n")
    return 0


def _label(first: Run, teacher: Run, settings: Mapping[str, float]) -> int:
    """Make the pseudo-labels of a round where they are missing; of other settings they are an error."""
    target = teacher.pseudo_labels / str(first.config()["datalist_name"])
    if target.exists():
        if read_content(target).get(SETTINGS) != settings:
            raise DataError(
                f"{target}: is of other --keep or --entropy. Give those again, or move {teacher.pseudo_labels} and the "
                "runs that learnt from it away."
            )
        return 0
    configs = [CONFIGS / "train.json", first.config_file, program_config("review"), program_config("pseudo_labels")]
    options = {"ckpt_path": teacher.model, "output_dir": teacher.pseudo_labels}
    return run_bundle(
        configs, {**options, **{f"pseudo_labels#{key}": value for key, value in settings.items()}}, go_on=GO_ON
    )


def _train(first: Run, teacher: Run, student: Run, settings: Mapping[str, Any]) -> int:
    """Train a round from the weights of the one before; a finished one is kept."""
    if student.is_finished:
        return 0
    labels = Run(teacher.pseudo_labels)
    config = first.config()
    dataset = str(config["dataset_name"])
    options = {
        "dataset_dir": labels.folder,
        "dataset_name": Path(str(config["dataset_dir"])).name if dataset.startswith("$") else dataset,
        "initial_weights": teacher.model,
        "runs_dir": student.folder.parent,
        "run_name": student.folder.name,
    }
    configs = [CONFIGS / "train.json", first.config_file, config_file("methods", "control", "")]
    configs += [program_config("self_training"), labels.grid_file]
    code = run_bundle(configs, {**options, **settings}, "training", GO_ON)
    if code == 0 and not student.is_finished:  # its folder was taken by a training of another config
        raise DataError(f"{student.folder}: is not of this command. Move it away, then start again.")
    return code
