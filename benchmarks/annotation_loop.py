# SPDX-License-Identifier: Apache-2.0
"""Simulate annotators over MONAI Label's REST interface: is a strategy better than scans at random?

    python benchmarks/annotation_loop.py --data HIPPOCAMPUS --dataset hippocampus --work WORK
    python benchmarks/annotation_loop.py --data LEFT_ATRIUM --dataset left_atrium --work WORK

Needs the environment of MONAI Label. DATA has ``images/`` and ``labels/``. The first scans in the order of their names
are the pool; every second of the last 50 is for test and never in it. A repetition begins with a model from a few scans
of the pool, drawn by its number. From there, with each strategy, each round asks the server which scan to label next,
saves the true label, trains with the same budget from the model in use, and measures the Dice on the test scans.

Interrupted, the same command continues after the last finished round. What is finished is kept in
results/annotation.json, from which the table of docs/monailabel.md is written.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from label_server import LabelServer
from pages import replace_table

BUNDLE = Path(__file__).resolve().parents[1]
RESULTS = BUNDLE / "benchmarks" / "results" / "annotation.json"
PAGE = BUNDLE / "docs" / "monailabel.md"
TABLE = "annotation"
RANDOM = "random"
STRATEGIES = ("disagreement", "entropy", "diversity", RANDOM)
MODEL = "loop"

Rounds = list[dict[str, Any]]


class Loop:
    """One annotator: a copy of the bundle, a studies folder and what was measured.

    Args:
        folder: all of that, kept between calls.
        data: folder with ``images/`` and ``labels/``.
        dataset: config of the data set, as the app's option.
        options: of each training.
    """

    def __init__(self, folder: Path, data: Path, dataset: str, options: Mapping[str, Any]) -> None:
        self.folder, self.data, self.options = folder, data, options
        self.conf = {"name": MODEL, "dataset": dataset}
        self.record = folder / "rounds.json"

    @property
    def rounds(self) -> Rounds:
        """What each finished round has measured."""
        return json.loads(self.record.read_text()) if self.record.exists() else []

    def prepare(self, pool: list[str]) -> None:
        """Copy the bundle and the scans of the pool, without their labels.

        The shipped weights stay behind: they have learnt from scans of these data sets.
        """
        for name in ("configs", "scripts", "monailabel_app"):
            ignored = shutil.ignore_patterns("__pycache__", "model", "logs")
            shutil.copytree(BUNDLE / name, self.folder / "bundle" / name, ignore=ignored)
        (self.folder / "studies").mkdir()
        for name in pool:
            shutil.copy(self.data / "images" / name, self.folder / "studies")

    def server(self) -> LabelServer:
        """The server; it scores only when asked to, as the random annotator has no use for scores."""
        environment = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
        folder = self.folder
        return LabelServer(folder / "bundle", folder / "studies", self.conf, folder / "server.log", 600, environment)

    def play(self, server: LabelServer, chosen: list[str], test: list[str]) -> None:
        """Train on what is labelled, measure, and note it."""
        start = time.monotonic()
        task = server.train(MODEL, self.options)
        if task["status"] != "DONE":
            raise SystemExit(f"The training failed: {' '.join(task['details'])}")
        seconds = time.monotonic() - start
        dice = [self.dice(server, name) for name in test]
        labels = server.client.info()["datastore"]["completed"]
        done = {"labels": labels, "chosen": chosen, "seconds": round(seconds), "dice": dice}
        self.record.write_text(json.dumps([*self.rounds, done], indent=1) + "\n")
        print(
            f"{self.folder.parent.name} {self.folder.name}: {labels} labels, Dice {np.mean(dice):.4f}, {seconds:.0f} s",
            flush=True,
        )

    def annotate(self, server: LabelServer, name: str) -> None:
        """Save the true label of a scan as its final one."""
        server.client.save_label(name.removesuffix(".nii.gz"), str(self.data / "labels" / name))

    def dice(self, server: LabelServer, name: str) -> float:
        """Mean foreground Dice of the server's segmentation of a scan that it does not have."""
        file, _ = server.client.infer(MODEL, "", {"device": "cpu"}, file=str(self.data / "images" / name))
        truth, found = (np.asarray(nibabel.load(path).dataobj) for path in (self.data / "labels" / name, file))
        Path(file).unlink()
        pairs = [(truth == value, found == value) for value in np.unique(truth) if value]
        return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def annotation_loop(
    data: str,
    work: str,
    dataset: str = "hippocampus",
    strategies: Sequence[str] = STRATEGIES,
    repetitions: int = 3,
    base_channels: int = 8,
    start: int = 2,
    rounds: int = 4,
    add: int = 2,
    pool: int = 40,
    epochs: int = 4,
    epoch_length: int = 25,
    tests: int = 25,
    results: str = str(RESULTS),
    page: str = str(PAGE),
) -> None:
    """Run what has not run yet and write the table.

    Args:
        data: folder with ``images/`` and ``labels/``.
        work: folder for what is between two calls.
        dataset: config of the data set, of those in configs/datasets; also its name in the results.
        strategies: of the server, to compare.
        repetitions: how many, each from other scans and another seed.
        base_channels: width of the networks.
        start: labels of the first model.
        rounds: how many more models.
        add: labels added before each.
        pool: scans to choose from.
        epochs: of each training.
        epoch_length: steps of an epoch.
        tests: scans to test on, of those set aside.
        results: file that the results are added to.
        page: where the table goes, between its marks.
    """
    place, folder = Path(work).resolve() / dataset, Path(data).resolve()
    config = write_dataset(place, dataset, base_channels)
    names = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))
    test = names[pool:][-50::2][:tests]
    budget = {"max_epochs": epochs, "epoch_length": epoch_length, "val_split": 0, "device": "cpu"}
    labels = [start + add * number for number in range(rounds + 1)]
    setting = {"base_channels": base_channels, "pool": pool, "tests": len(test), "steps": epochs * epoch_length}
    setting["labels"] = labels
    for number in range(repetitions):
        options = {**budget, "seed": number}
        first = Loop(place / str(number) / "start", folder, config, options)
        if not first.rounds:
            shutil.rmtree(first.folder, ignore_errors=True)
            first.prepare(names[:pool])
            chosen = [names[i] for i in np.random.default_rng(number).permutation(pool)[:start]]
            with first.server() as server:
                for name in chosen:
                    first.annotate(server, name)
                first.play(server, chosen, test)
        for strategy in strategies:
            loop = Loop(place / str(number) / strategy, folder, config, options)
            if not loop.folder.exists():
                shutil.copytree(first.folder, loop.folder)
            if len(loop.rounds) <= rounds:
                with loop.server() as server:
                    go_through(loop, server, strategy, labels, test)
            keep(Path(results), dataset, setting, strategy, number, loop.rounds)
    replace_table(Path(page), TABLE, tables(json.loads(Path(results).read_text())))


def go_through(loop: Loop, server: LabelServer, strategy: str, labels: Sequence[int], test: list[str]) -> None:
    """Play the rounds that are left; ``labels`` says how many labels there are in each."""
    while len(loop.rounds) < len(labels):
        missing = labels[len(loop.rounds)] - server.client.info()["datastore"]["completed"]
        if strategy != RANDOM:
            server.score("disagreement")  # gives all that any strategy goes by
        chosen = []
        for _ in range(missing):  # fewer than a round's after an interruption
            chosen.append(server.client.next_sample(strategy, {})["name"])
            loop.annotate(server, chosen[-1])
        loop.play(server, chosen, test)


def write_dataset(folder: Path, dataset: str, base_channels: int) -> str:
    """The config of a data set with networks of another width; its path."""
    config = json.loads((BUNDLE / "configs" / "datasets" / f"{dataset}.json").read_text())
    config["cpu"]["base_channels"] = base_channels
    path = folder / "dataset.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=1) + "\n")
    return str(path)


def keep(file: Path, dataset: str, setting: Mapping[str, Any], strategy: str, number: int, rounds: Rounds) -> None:
    """Add what one annotator has measured to the results; those of another setting go."""
    content = json.loads(file.read_text()) if file.exists() else {}
    if content.get(dataset, {}).get("setting") != setting:
        content[dataset] = {"setting": dict(setting), "strategies": {}}
    content[dataset]["strategies"].setdefault(strategy, {})[str(number)] = rounds
    file.write_text(json.dumps(content, indent=1) + "\n")


def tables(content: Mapping[str, Any]) -> str:
    """The results as Markdown: for each data set a table and what it says."""
    return "\n".join(_table(dataset, **found) for dataset, found in content.items())


def _table(dataset: str, setting: Mapping[str, Any], strategies: Mapping[str, Mapping[str, Rounds]]) -> str:
    common = sorted(set.intersection(*(set(found) for found in strategies.values())), key=int)
    if not common:
        return f"{dataset}: no repetition is finished\n"
    # strategy -> Dice [repetition, round], mean over the scans
    dice = {
        strategy: np.array([[np.mean(one["dice"]) for one in found[number]] for number in common])
        for strategy, found in strategies.items()
    }
    played = [one for found in strategies.values() for number in common for one in found[number]]
    lines = [f"| {dataset}: labels | {' | '.join(dice)} |\n", "|---|" + "---|" * len(dice) + "\n"]
    for number, count in enumerate(setting["labels"]):
        cells = [f"{found[:, number].mean():.3f} ± {found[:, number].std():.3f}" for found in dice.values()]
        lines.append(f"| {count} | {' | '.join(cells)} |\n")
    lines.append(
        f"\nDice on {setting['tests']} test scans, mean over scans and structures, ± standard deviation over "
        f"{len(common)} repetition{'s' * (len(common) != 1)}.\n{setting['steps']} steps a round from the model before, "
        f"base_channels {setting['base_channels']}, chosen among {setting['pool']} scans;\n"
        f"{np.median([one['seconds'] for one in played]):.0f} s a training (median). {_verdict(dice)}\n"
    )
    return "".join(lines)


def _verdict(dice: Mapping[str, np.ndarray]) -> str:
    """Which strategies were better than random in every repetition, over the rounds after the first model."""
    if RANDOM not in dice:
        return ""
    gains = {name: (found - dice[RANDOM])[:, 1:].mean(1) for name, found in dice.items() if name != RANDOM}
    better = [f"{name} (by {gain.mean():.3f})" for name, gain in gains.items() if (gain > 0).all()]
    return f"Better than random in every repetition: {', '.join(better) or 'none'}."


if __name__ == "__main__":
    fire.Fire(annotation_loop)
