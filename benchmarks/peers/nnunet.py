# SPDX-License-Identifier: Apache-2.0
"""nnU-Net on exactly our splits: the yardstick in the tables.

    python benchmarks/peers/nnunet.py hippocampus --dataset_dir DIR [--labels 8] [--minutes 30] [--threads 1]

It installs nnU-Net v2 into an environment of its own, makes its dataset of the labelled training scans of a datalist,
trains 3d_fullres on all of them on the CPU, predicts the test scans without mirrored views, scores them by the code
that scores our runs, and adds the result to ``benchmarks/results/DATASET.json``. Every step that is done is kept: the
same command goes on where it was interrupted.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from ignite.engine import Engine
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

PEERS = Path(__file__).resolve().parent
sys.path[:0] = [str(PEERS.parent), str(PEERS.parents[1])]
import records  # noqa: E402

from scripts.data import AnnotatedLabeld, load_datalist, prediction_name  # noqa: E402
from scripts.data.datalist.read import image_files  # noqa: E402
from scripts.data.io.formats.nifti import save_nifti  # noqa: E402
from scripts.data.transforms.label_on_image import LabelOnImaged  # noqa: E402
from scripts.errors import DataError  # noqa: E402
from scripts.reports import CaseMetrics  # noqa: E402
from scripts.runs import Run  # noqa: E402

REQUIREMENTS = ("nnunetv2==2.8.1", "torch==2.13.0")
TRAINER, CONFIGURATION, ID = "nnUNetTrainerShort", "3d_fullres", 1
TRIAL = {"epochs": 2, "iterations": 5}
SCHEDULE = {"epochs": 1000, "iterations": 250}
"""nnU-Net's own."""


def main(
    dataset: str,
    dataset_dir: str,
    labels: int | str = 8,
    minutes: float | None = None,
    epochs: int = SCHEDULE["epochs"],
    iterations: int = SCHEDULE["iterations"],
    seed: int = 0,
    threads: int = 1,
    test_scans: int | None = None,
    work: str = "runs/nnunet",
    environment: str | None = None,
) -> None:
    """Train nnU-Net on the labelled scans of a datalist and score it on its test scans.

    Args:
        dataset: name of the data set, as in benchmarks/results.
        dataset_dir: folder of its datalists.
        labels: how many scans are labelled, as in the name of the datalist, ``datalist_8.json``.
        minutes: wall time of the training; a few iterations are measured first. Default: ``epochs``.
        epochs: of nnU-Net; with ``minutes`` their number follows from it.
        iterations: of an epoch; with ``minutes`` about as many.
        seed: of weights and crops; nnU-Net is not the same bit for bit.
        threads: of PyTorch.
        test_scans: score the first so many alone, and add no record: to try it out.
        work: folder for everything that is made.
        environment: a virtual environment that has nnU-Net; default: one in ``work``, made where it is missing.

    Raises:
        SystemExit: when the data cannot be used, or a step of nnU-Net fails.
    """
    name = f"datalist_{labels}.json"
    budget = f"{minutes}minutes" if minutes else f"{epochs}x{iterations}"
    few = [] if test_scans is None else [f"{test_scans}scans"]
    folder = Path(work).resolve() / "_".join([dataset, str(labels), budget, f"seed{seed}", *few])
    python = _environment(Path(environment).absolute() if environment else Path(work).resolve() / "environment")
    try:
        datalist = load_datalist(Path(dataset_dir, name))
        datalist["test"] = datalist["test"][:test_scans]
        make_dataset(datalist, folder / "raw" / f"Dataset{ID:03}_{dataset}")
    except DataError as error:
        raise SystemExit(f"Error: {error}") from error
    wanted = {"iterations": iterations, "seed": seed, "threads": threads}
    plans = folder / "preprocessed" / "done"
    if not plans.exists():
        options = ["-d", ID, "-c", CONFIGURATION, "-np", 1, "-npfp", 1, "--verify_dataset_integrity"]
        _nnunet(python, folder, "plan_and_preprocess", options)
        plans.touch()
    if minutes is not None:
        trial = _train(python, folder, "trial", {**wanted, **TRIAL})["epoch_seconds"][-1] / TRIAL["iterations"]
        epochs, iterations = schedule(minutes, trial, iterations)
        print(
            f"{trial:.2f} s an iteration: {epochs} epochs of {iterations} iterations in {minutes} minutes", flush=True
        )
    trained = _train(python, folder, "results", {**wanted, "epochs": epochs, "iterations": iterations})
    raw, predictions = _raw(folder), folder / "predictions"
    if len(list(predictions.glob("*.nii.gz"))) < len(datalist["test"]):
        options = [
            "-i",
            raw / "imagesTs",
            "-o",
            predictions,
            "-d",
            ID,
            "-c",
            CONFIGURATION,
            "-f",
            "all",
            "-tr",
            TRAINER,
        ]
        options += ["-device", "cpu", "--disable_tta", "-npp", 1, "-nps", 1, "--continue_prediction"]
        _nnunet(python, folder, "predict", options)
    summary = score(datalist, predictions, folder / "scores")
    print(f"Dice {summary['networks']['ensemble']['mean_foreground']['dice']['mean']:.4f}, {summary['cases']} scans")
    if test_scans is None:
        given = {"minutes": minutes} if minutes else {"epochs": epochs, "iterations": iterations}
        words = " ".join(f"--{key} {value}" for key, value in {"labels": labels, **given, "seed": seed}.items())
        records.add(
            dataset,
            {
                "method": "nnunet" if minutes else "nnunet_long",
                "datalist": name,
                "start": None,
                "seed": seed,
                "steps": epochs * iterations,
                "warm_up": 0,
                "options": {},
                "configs": [],
                "command": f"python benchmarks/peers/nnunet.py {dataset} --dataset_dir DIR {words}",
                "weights": "last epoch",
                "test_scans": summary["cases"],
                "minutes": round(sum(trained["epoch_seconds"]) / 60, 1),
                "peak_memory_gib": trained["peak_memory_gib"],
                "device": f"CPU, {threads} threads",
                "versions": dict(requirement.split("==") for requirement in REQUIREMENTS),
                "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                **records.scores(Run(folder / "scores")),
            },
        )


def schedule(minutes: float, seconds: float, iterations: int) -> tuple[int, int]:
    """Epochs, and iterations of each, that take this time: about as many as asked for, since of a few long epochs
    much time would be left, or be missing.

    Args:
        minutes: of the training.
        seconds: of an iteration.
        iterations: of an epoch, that are asked for.
    """
    possible = 60 * minutes / seconds
    epochs = max(1, round(possible / iterations))
    return epochs, max(1, round(possible / epochs))


def make_dataset(datalist: Mapping[str, Any], folder: Path) -> None:
    """Write nnU-Net's raw dataset: labelled training scans, and apart from them the images of the test scans.

    Args:
        datalist: from ``load_datalist``.
        folder: ``.../DatasetNNN_NAME``; one with its dataset.json is complete, and kept.

    Raises:
        DataError: when scans have one name, or a label lacks a class that was not annotated.
    """
    if (folder / "dataset.json").exists():
        return
    if partial := [case for case in datalist["training"] if "classes" in case]:
        raise DataError(
            f"{partial[0]['label']}: not all classes were annotated in it, which nnU-Net cannot learn from."
        )
    names = [_name(case) for case in (*datalist["training"], *datalist["test"])]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{twice[0]}: two scans have this name. Rename one of them.")
    classes = len(datalist["labels"])
    for images, cases in (("imagesTr", datalist["training"]), ("imagesTs", datalist["test"])):
        for case in cases:
            item = _loaded(case, classes, datalist["ignore"])
            affine = item["image"].affine.numpy()
            for number, channel in enumerate(item["image"].numpy()):
                save_nifti(channel.astype(np.float32), affine, _made(folder / images / f"{_name(case)}_{number:04}"))
            if images == "imagesTr":
                label = torch.where(item["label"] < 0, classes, item["label"])  # what nobody has annotated
                save_nifti(label[0].numpy().astype(np.uint8), affine, _made(folder / "labelsTr" / _name(case)))
    channels = datalist["modality"] or [f"channel {number}" for number in range(len(item["image"]))]
    values = {name: value for value, name in datalist["labels"].items() if value}
    content = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, **values, **({} if datalist["ignore"] is None else {"ignore": classes})},
        "numTraining": len(datalist["training"]),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def score(datalist: Mapping[str, Any], predictions: Path, output: Path) -> dict[str, Any]:
    """Score predictions ``NAME.nii.gz`` of the test scans as our own runs are, and write the same files.

    Args:
        datalist: from ``load_datalist``.
        predictions: their folder.
        output: folder for metrics.csv and metrics.json.

    Raises:
        SystemExit: when a prediction is missing.
    """
    if missing := [_name(case) for case in datalist["test"] if not (predictions / f"{_name(case)}.nii.gz").exists()]:
        raise SystemExit(f"{predictions}: no {missing[0]}.nii.gz. Delete the folder, and give the same command again.")
    output.mkdir(parents=True, exist_ok=True)
    classes = len(datalist["labels"])

    def step(engine: Engine, case: Mapping[str, Any]) -> list[dict[str, Any]]:
        item = _loaded(case, classes, datalist["ignore"], pred=str(predictions / f"{_name(case)}.nii.gz"))
        return [item]

    metrics = CaseMetrics(datalist["labels"], str(output), pred_keys=("pred",))
    engine = Engine(step)
    metrics.attach(engine)
    engine.run(datalist["test"])
    return metrics.summary


def _loaded(case: Mapping[str, Any], classes: int, ignore: int | None, **further: str) -> dict[str, Any]:
    """The scan on its own grid, and its label, and further files like labels, on the same one."""
    keys = ["image", "label", *further]
    steps = [LoadImaged(keys), EnsureChannelFirstd(keys), LabelOnImaged("label")]
    steps += [LabelOnImaged(key) for key in further]
    steps += [AnnotatedLabeld("label", classes, ignore)]
    return Compose(steps)({**case, **further})


def _name(case: Mapping[str, Any]) -> str:
    return prediction_name(image_files(case)[0])


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ".nii.gz")


def _raw(folder: Path) -> Path:
    return next((folder / "raw").glob("Dataset*"))


def _environment(folder: Path) -> Path:
    """The folder of the programs of an environment that has nnU-Net."""
    programs = folder / "bin"
    python = str(programs / "python")
    if not (programs / "nnUNetv2_train").exists():
        print(f"Installing {', '.join(REQUIREMENTS)} into {folder}", flush=True)
        venv.create(folder, with_pip=True)
        if subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=False).returncode != 0:
            raise SystemExit(f"nnU-Net could not be installed into {folder}, see above.")
    return programs


def _train(programs: Path, folder: Path, results: str, wanted: Mapping[str, int]) -> dict[str, Any]:
    """Train, or go on with an interrupted training; what it took."""
    settings = folder / f"{results}.json"
    if not settings.exists():
        settings.write_text(json.dumps(wanted), encoding="utf-8")
    elif json.loads(settings.read_text(encoding="utf-8")) != wanted:
        raise SystemExit(
            f"{settings}: a training with other settings is there. Move {folder} away, or give those again."
        )
    finished = f"*/{TRAINER}__nnUNetPlans__{CONFIGURATION}/fold_all/training.json"
    if not list((folder / results).glob(finished)):
        options = [ID, CONFIGURATION, "all", "-tr", TRAINER, "-device", "cpu", "--c"]
        _nnunet(programs, folder, "train", options, results)
    (path,) = (folder / results).glob(finished)
    return json.loads(path.read_text(encoding="utf-8"))


def _nnunet(programs: Path, folder: Path, program: str, options: Sequence[object], results: str = "results") -> None:
    places = {"raw": folder / "raw", "preprocessed": folder / "preprocessed", "results": folder / results}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        **{f"nnUNet_{name}": str(place) for name, place in places.items()},
        "nnUNet_extTrainer": str(PEERS / "trainers"),
        "NNUNET_SHORT": str(folder / f"{results}.json"),
        "nnUNet_n_proc_DA": "0" if program == "train" else "1",  # planning wants a positive number
        "nnUNet_compile": "f",
    }
    # A torchvision of another build than torch's does not import; what needs it is not used here.
    if subprocess.run([str(programs / "python"), "-c", "import timm.models.eva"], capture_output=True).returncode != 0:
        environment["PYTHONPATH"] = str(PEERS / "stand_in")
    command = [str(programs / f"nnUNetv2_{program}"), *map(str, options)]
    print("\n" + " ".join(command), flush=True)
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise SystemExit(f"nnUNetv2_{program} failed, see above. The same command goes on from here.")


if __name__ == "__main__":
    fire.Fire(main)
