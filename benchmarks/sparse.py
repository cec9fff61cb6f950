# SPDX-License-Identifier: Apache-2.0
"""What labels that are not complete are worth beside whole ones: make the data lists, train what is missing, compare.

    python benchmarks/sparse.py make --data DATA --work WORK     # DATA has acdc/ (with scribbles/) and hippocampus/
    python benchmarks/sparse.py commands --work WORK             # of the trainings that are not finished
    python benchmarks/sparse.py train --work WORK [--only hippocampus_slices] [--seeds 3] [--jobs 16]
    python benchmarks/sparse.py table --work WORK

A trial of all of it in minutes, in a folder of its own: ``make --few 2``, ``train --max_epochs 2 --epoch_length 2``.

Scribbles: the patients of the development splits of ACDC with 3 and 7 labelled patients, by scribbles in place of whole
labels; also by what was drawn alone, without what closed strokes of background say of all outside them. Slices: every
fourth slice of 8 hippocampus scans. Parts: 4 hippocampus scans with the anterior part alone, 4 with the posterior one.
Each is trained with the unlabelled scans and, as a control, without them; whole labels are trained as usual; of the
parts there is also a training that takes what was not drawn for background. Interrupted, the same command goes on.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fire
import nibabel
import numpy as np
from records import ROOT, Run

sys.path.insert(0, str(ROOT))
from scripts.data import load_datalist, write_datalist

UNDRAWN = 255
EVERY = 4
"""One slice in this many is labelled."""


class Training(NamedTuple):
    """One training: its data set's config, its datalist, its method (None: the default), what it is compared with."""

    dataset: str
    datalist: str
    method: str | None
    whole: str
    enclosed_background: bool = True


def _trainings() -> dict[str, Training]:
    kinds = {"acdc_3": ("scribbles",), "acdc_7": ("scribbles",), "hippocampus": ("slices", "parts")}
    found = {}
    for group, partial in kinds.items():
        dataset, whole = group.split("_")[0], f"{group}_whole"
        found[whole] = Training(dataset, whole, None, whole)
        for kind in partial:
            name = f"{group}_{kind}"
            found[name] = Training(dataset, name, "sparse", whole)
            found[f"{name}_control"] = Training(dataset, name, "control", whole)
            if kind == "scribbles":
                found[f"{name}_drawn"] = Training(dataset, name, "sparse", whole, enclosed_background=False)
    found["hippocampus_parts_rest"] = Training("hippocampus", "hippocampus_parts_rest", None, "hippocampus_whole")
    return found


TRAININGS = _trainings()


def make(data: str, work: str, few: int | None = None) -> None:
    """Write the labels and datalists of all trainings; what is there already is written again, the same.

    Args:
        data: folder with ``acdc`` and ``hippocampus``, each with its datalists.
        work: where labels, datalists and runs go.
        few: how many of the unlabelled, validation and test scans to keep, for a trial; default: all.
    """

    def read(path: Path) -> dict:
        datalist = load_datalist(path)
        return datalist | {section: datalist[section][:few] for section in ("unlabeled", "validation", "test")}

    source, target = Path(data).resolve(), Path(work).resolve()
    for patients in (3, 7):
        datalist = read(source / "acdc" / f"datalist_{patients}.json")
        _write(datalist, target / f"acdc_{patients}_whole.json")
        scribbles = source / "acdc" / "scribbles"
        cases = [case | {"label": str(scribbles / Path(case["label"]).name)} for case in datalist["training"]]
        _write(datalist | {"training": cases, "ignore": 4}, target / f"acdc_{patients}_scribbles.json")

    datalist = read(source / "hippocampus" / "datalist_8.json")
    whole = datalist["training"]
    _write(datalist, target / "hippocampus_whole.json")
    slices = [case | {"label": _changed(case["label"], target / "slices", some_slices)} for case in whole]
    _write(datalist | {"training": slices, "ignore": UNDRAWN}, target / "hippocampus_slices.json")
    parts = [
        case | {"label": _changed(case["label"], target / "parts", one_class, shown), "classes": [shown]}
        for case, shown in zip(whole, [1] * (len(whole) // 2) + [2] * (len(whole) // 2), strict=True)
    ]
    _write(datalist | {"training": parts}, target / "hippocampus_parts.json")
    rest = [{key: value for key, value in case.items() if key != "classes"} for case in parts]
    _write(datalist | {"training": rest}, target / "hippocampus_parts_rest.json")
    print(f"{len(list(target.glob('*.json')))} datalists in {target}")


def some_slices(label: np.ndarray) -> np.ndarray:
    """The label with every fourth slice along its last axis, the others not drawn."""
    kept = np.full_like(label, UNDRAWN)
    kept[..., EVERY // 2 :: EVERY] = label[..., EVERY // 2 :: EVERY]
    return kept


def one_class(label: np.ndarray, shown: int) -> np.ndarray:
    """The label with one class, and background for all else."""
    return np.where(label == shown, label, 0)


def _changed(path: str, folder: Path, change, *arguments) -> str:
    """A copy of a label file in a folder, its voxels changed."""
    image = nibabel.load(path)
    voxels = change(np.asanyarray(image.dataobj).astype(np.uint8), *arguments)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), folder / Path(path).name)
    return str(folder / Path(path).name)


def _write(datalist: dict, path: Path) -> None:
    content = {key: value for key, value in datalist.items() if value is not None}
    content["labels"] = {str(value): name for value, name in content["labels"].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_datalist(content, path, overwrite=True)


def _missing(
    work: Path, only: str | tuple[str, ...] | None, seeds: int, recipe: str, options: dict
) -> Iterator[list[str]]:
    names = list(TRAININGS) if only is None else only.split(",") if isinstance(only, str) else list(only)
    if unknown := [name for name in names if name not in TRAININGS]:
        raise SystemExit(f"--only names {', '.join(unknown)}, but there are {', '.join(TRAININGS)}.")
    for seed in range(seeds):
        for name in names:
            one = TRAININGS[name]
            layers = ["train", f"datasets/{one.dataset}", f"recipes/{recipe}"]
            layers += [] if one.method is None else [f"methods/{one.method}"]
            if Run.latest(work / "runs", f"{name}_seed{seed}") is not None:
                continue
            values = {"dataset_dir": work, "datalist_name": f"{one.datalist}.json", "runs_dir": work / "runs"}
            values |= {"run_name": f"{name}_seed{seed}", "seed": seed}
            values |= {"enclosed_background": one.enclosed_background, **options}
            yield [
                *(sys.executable, "-m", "monai.bundle", "run", "training"),
                *("--config_file", str([f"configs/{layer}.json" for layer in layers])),
                *(word for key, value in values.items() for word in (f"--{key}", str(value))),
            ]


def commands(
    work: str, only: str | tuple[str, ...] | None = None, seeds: int = 1, recipe: str = "cpu", **options: object
) -> None:
    """Print the command of each training that is not finished; to be given in the bundle's folder.

    Args:
        work: folder that ``make`` has filled.
        only: names of trainings, by commas; default: all.
        seeds: 0 to this number less one.
        recipe: name of a config in configs/recipes.
        options: further values of the config, the same for all.
    """
    for command in _missing(Path(work).resolve(), only, seeds, recipe, options):
        print(shlex.join(command))


def train(
    work: str,
    only: str | tuple[str, ...] | None = None,
    seeds: int = 1,
    recipe: str = "cpu",
    jobs: int = 1,
    minutes: float | None = None,
    **options: object,
) -> None:
    """Train what is not finished and print the table; arguments as of ``commands``.

    Args:
        jobs: how many at a time, on a GPU.
        minutes: with several: stop after these; the same command goes on.

    Raises:
        SystemExit: when a training fails.
    """
    missing = _missing(Path(work).resolve(), only, seeds, recipe, options)
    if jobs > 1:
        from pool import Job, train_all  # imports all of the bundle

        words = [command[3:] for command in missing]
        names = [one[one.index("--run_name") + 1] for one in words]
        parts = [[(one.copy, Path(work, f"{name}.log"))] for one, name in zip(words, names, strict=True)]
        train_all([Job(name, part) for name, part in zip(names, parts, strict=True)], jobs, minutes)
        missing = iter(())
    for command in missing:
        print(f"\n{shlex.join(command)}", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            raise SystemExit("The training above failed; the same command goes on with it.")
    table(work)


def table(work: str) -> None:
    """Print the test Dice of the finished trainings beside that of whole labels, in points; means over seeds.

    Args:
        work: folder that ``make`` has filled.
    """
    found = {name: _scores(Path(work) / "runs", name) for name in TRAININGS}
    print("| training | method | seeds | Dice | to whole labels, points |\n|---|---|---|---|---|")
    for name, scores in found.items():
        if not scores:
            continue
        one = TRAININGS[name]
        both = sorted(scores.keys() & found[one.whole].keys())
        gap = 100 * np.mean([scores[seed] - found[one.whole][seed] for seed in both]) if both else np.nan
        shown = "" if name == one.whole or np.isnan(gap) else f"{gap:+.1f}"
        method, dice = one.method or "default", np.mean(list(scores.values()))
        print(f"| {name} | {method} | {', '.join(map(str, sorted(scores)))} | {dice:.4f} | {shown} |")


def _scores(runs: Path, name: str) -> dict[int, float]:
    """Mean foreground Dice of the ensemble on the test scans, by seed; of a seed's runs the newest finished one's."""
    names = (re.fullmatch(rf"{name}_seed(\d+)(_\d+)?", folder.name) for folder in runs.glob(f"{name}_seed*"))
    finished = {seed: Run.latest(runs, f"{name}_seed{seed}") for seed in sorted({int(one[1]) for one in names if one})}
    return {
        seed: run.summary()["networks"]["ensemble"]["mean_foreground"]["dice"]["mean"]
        for seed, run in finished.items()
        if run is not None
    }


if __name__ == "__main__":
    fire.Fire({"make": make, "commands": commands, "train": train, "table": table})
