# SPDX-License-Identifier: Apache-2.0
"""Simulate an annotator over MONAI Label's REST interface, and write the table of docs/monailabel.md.

    python benchmarks/annotation_loop.py --data DIR --work WORK

DIR has ``images/`` and ``labels/``. The first scans in the order of their names are the pool; every second of the last
50 is for test and never in it. From a few labels on, each round asks the server which scan to label next, saves the
true label, trains with the same budget from the model in use, and measures the Dice on the test scans. Once with each
strategy, from the same first model. Interrupted, the same command continues after the last finished round.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import fire
import nibabel
import numpy as np
from label_server import LabelServer

BUNDLE = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- annotation loop -->\n", "<!-- /annotation loop -->\n"
STRATEGIES = ("disagreement", "random")
MODEL = "loop"


class Loop:
    """One annotator: a copy of the bundle, a studies folder and what was measured.

    Args:
        folder: all of that, kept between calls.
        data: folder with ``images/`` and ``labels/``.
        dataset: config of the data set, as the app's option.
        options: of each training.
    """

    def __init__(self, folder: Path, data: Path, dataset: str, options: dict) -> None:
        self.folder, self.data, self.options = folder, data, options
        self.conf = {"name": MODEL, "dataset": dataset}
        self.record = folder / "rounds.json"

    @property
    def rounds(self) -> list[dict]:
        """What each finished round has measured."""
        return json.loads(self.record.read_text()) if self.record.exists() else []

    def prepare(self, pool: list[str]) -> None:
        """Copy the bundle and the scans of the pool, without their labels."""
        for name in ("configs", "scripts", "models", "monailabel_app"):
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
        print(f"{self.folder.name}: {labels} labels, Dice {np.mean(dice):.4f}, {seconds:.0f} s", flush=True)

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
    base_channels: int = 8,
    start: int = 2,
    rounds: int = 4,
    add: int = 2,
    pool: int = 40,
    epochs: int = 4,
    epoch_length: int = 25,
    document: str = str(BUNDLE / "docs" / "monailabel.md"),
) -> None:
    """Run what has not run yet and write the table.

    Args:
        data: folder with ``images/`` and ``labels/``.
        work: folder for what is between two calls.
        base_channels: width of the networks.
        start: labels of the first model.
        rounds: how many more models.
        add: labels added before each.
        pool: scans to choose from.
        epochs: of each training.
        epoch_length: steps of an epoch.
        document: where the table goes, between two marks.
    """
    options = {"max_epochs": epochs, "epoch_length": epoch_length, "val_split": 0, "device": "cpu"}
    dataset = write_dataset(Path(work), base_channels)
    names = sorted(path.name for path in Path(data, "images").glob("*.nii.gz"))
    test = names[-50::2]
    first = Loop(Path(work).resolve() / "start", Path(data).resolve(), dataset, options)
    if not first.rounds:
        shutil.rmtree(first.folder, ignore_errors=True)
        first.prepare(names[:pool])
        with first.server() as server:
            for name in names[:start]:
                first.annotate(server, name)
            first.play(server, names[:start], test)
    loops = {name: Loop(Path(work).resolve() / name, Path(data).resolve(), dataset, options) for name in STRATEGIES}
    for strategy, loop in loops.items():
        if not loop.folder.exists():
            shutil.copytree(first.folder, loop.folder)
        if len(loop.rounds) > rounds:
            continue
        with loop.server() as server:
            while len(loop.rounds) <= rounds:
                missing = start + add * len(loop.rounds) - server.client.info()["datastore"]["completed"]
                if strategy != "random":
                    server.score(strategy)
                chosen = []
                for _ in range(missing):  # fewer than `add` after an interruption
                    chosen.append(server.client.next_sample(strategy, {})["name"])
                    loop.annotate(server, chosen[-1])
                loop.play(server, chosen, test)
    write_table(Path(document), {name: loop.rounds for name, loop in loops.items()}, options, len(test), pool)


def write_dataset(work: Path, base_channels: int) -> str:
    """The hippocampus config with networks of another width; its path."""
    config = json.loads((BUNDLE / "configs" / "datasets" / "hippocampus.json").read_text())
    config["cpu"]["base_channels"] = base_channels
    path = work.resolve() / "dataset.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=1) + "\n")
    return str(path)


def write_table(document: Path, played: dict[str, list[dict]], options: dict, test: int, pool: int) -> None:
    """Replace what stands between the marks of the document."""
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{document}: no lines {BEGIN.strip()} and {END.strip()} between which the table goes.")
    lines = [f"| labels | {' | '.join(played)} |\n", "|---|" + "---|" * len(played) + "\n"]
    for done in zip(*played.values(), strict=True):
        cells = [f"{np.mean(one['dice']):.3f} ± {np.std(one['dice']):.3f}" for one in done]
        lines.append(f"| {done[0]['labels']} | {' | '.join(cells)} |\n")
    seconds = [one["seconds"] for rounds in played.values() for one in rounds]
    lines.append(
        f"\nDice on {test} test scans, mean over both structures, ± standard deviation over scans; one run each, no "
        f"repetition. {options['max_epochs'] * options['epoch_length']} steps a round, each from the model before, "
        f"chosen among {pool} scans; {np.median(seconds):.0f} s a training (median) on one shared core.\n"
    )
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    document.write_text(before + BEGIN + "".join(lines) + END + after)


if __name__ == "__main__":
    fire.Fire(annotation_loop)
