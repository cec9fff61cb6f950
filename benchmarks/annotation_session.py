# SPDX-License-Identifier: Apache-2.0
"""One session of an annotator with MONAI Label, step by step with its seconds; writes the table of docs/monailabel.md.

    python benchmarks/annotation_session.py --data HIPPOCAMPUS --work WORK

Needs the environment of MONAI Label. DATA has ``images/`` and ``labels/``. The annotator talks to a server as 3D Slicer
does, by its client library, and knows nothing of the app: draws the true label, corrects by clicks where the proposal
is wrong, submits a wrong label, stops a training, kills the server and goes back to an earlier model. After each step
that may change the model in use, its Dice is measured on scans that are held back.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import fire
import nibabel
import numpy as np
import psutil
from monailabel.client.client import MONAILabelClientException
from scipy.ndimage import label as components

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from annotation_loop import PAGE, write_dataset
from label_server import LabelServer
from pages import replace_table

from scripts.runs import Run

BUNDLE = Path(__file__).resolve().parents[1]
TABLE = "session"
MODEL = "session"


class Session:
    """The annotator, the server, and what was done.

    Args:
        data: folder with ``images/`` and ``labels/``.
        folder: for the bundle's copy, the studies and the log.
        dataset: config of the data set, as the app's option.
        scans: how many are among the studies.
        tests: how many are held back.
    """

    def __init__(self, data: Path, folder: Path, dataset: str, scans: int, tests: int) -> None:
        self.data, self.folder = data, folder
        names = sorted(path.name.removesuffix(".nii.gz") for path in (data / "images").glob("*.nii.gz"))
        self.names, self.held_back = names[:scans], names[-tests:]
        for name in ("configs", "scripts", "models", "monailabel_app"):
            ignored = shutil.ignore_patterns("__pycache__", "model", "logs")
            shutil.copytree(BUNDLE / name, folder / "bundle" / name, ignore=ignored)
        (folder / "studies").mkdir()
        for name in self.names:
            shutil.copy(data / "images" / f"{name}.nii.gz", folder / "studies")
        conf = {"name": MODEL, "dataset": dataset}
        self.server = LabelServer(folder / "bundle", folder / "studies", conf, folder / "server.log", 600)
        self.steps: list[tuple[str, float, str, float | None]] = []

    def step(self, what: str, do: Callable[[], str | None], measure: bool = False) -> None:
        """Do something, and note its seconds, what the server told and, if wanted, the Dice of the model in use."""
        start = time.monotonic()
        told = do() or ""
        seconds = time.monotonic() - start
        dice = float(np.mean([self.dice(name) for name in self.held_back])) if measure else None
        self.steps.append((what, seconds, told, dice))
        print(f"{what}: {seconds:.1f} s, Dice {dice}, {told}", flush=True)

    def start(self) -> str:
        """Start the server; how many scans and labels it has."""
        self.server.__enter__()
        found = self.server.client.info()["datastore"]
        return f"{found['total']} scans, {found['completed']} labels"

    def kill(self) -> None:
        """Kill the server, and wait for the end of what it has started."""
        children = self.server.children()
        os.kill(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait(timeout=60)
        psutil.wait_procs(children, timeout=300)

    def truth(self, name: str) -> np.ndarray:
        """The true label's voxels."""
        return _voxels(self.data / "labels" / f"{name}.nii.gz")

    def submit(self, name: str) -> None:
        """Draw the true label and submit it."""
        self.server.client.save_label(name, str(self.data / "labels" / f"{name}.nii.gz"))

    def submit_wrong(self, name: str) -> str:
        """Submit a label with a value that no structure has; the server's refusal."""
        label = nibabel.load(self.data / "labels" / f"{name}.nii.gz")
        file = self.folder / "wrong.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj) * np.uint8(5), label.affine), file)
        try:
            self.server.client.save_label(name, str(file))
        except MONAILabelClientException as error:
            return shorten(json.loads(error.msg.split("Response: ")[-1])["detail"], 90, placeholder=" ...")
        raise SystemExit("The wrong label was accepted.")

    def next(self) -> str:
        """The scan that the server gives next."""
        return self.server.client.next_sample("random", {})["id"]

    def correct(self, name: str) -> str:
        """Click once into the largest missing and the largest surplus part of each structure, and take the result."""
        client, truth = self.server.client, self.truth(name)
        proposal = _voxels(client.infer(MODEL, name, {"device": "cpu"})[0])
        found, seconds = proposal.copy(), 0.0
        for structure, value in client.info()["models"][MODEL]["labels"].items():
            clicks = {
                "foreground": (truth == value) & (proposal != value),
                "background": (proposal == value) & (truth != value),
            }
            points = {kind: [_inside(wrong)] for kind, wrong in clicks.items() if wrong.any()}
            options = {"selected_label_name": structure, "device": "cpu", **points}
            file, told = client.infer(f"{MODEL}_scribbles", name, options)
            mask = _voxels(file) > 0
            found[(found == value) & ~mask], found[mask] = 0, value
            seconds = max(seconds, told["seconds"]["total"])
        before, after = (_mean_dice(one, truth) for one in (proposal, found))
        return f"Dice of the proposal {before:.3f}, after the clicks {after:.3f}; slowest answer {seconds:.1f} s"

    def train(self, **options: Any) -> str:
        """Train to the end; what became of the new model."""
        task = self.server.train(MODEL, options)
        if task["status"] != "DONE":
            raise SystemExit(f"The training failed: {' '.join(task['details'])}")
        return self.stats()["verdict"]

    def begin_training(self, **options: Any) -> str:
        """Start a training and wait until its first epoch is kept; which epoch it is at."""
        before = self.stats().get("model")
        self.server.client.train_start(MODEL, options)
        while True:
            stats = self.stats()
            run = Run(self.folder / "bundle" / "monailabel_app" / "model" / stats.get("model", ""))
            if stats.get("model") != before and run.state.exists():
                return f"at epoch {stats['epoch']} of {stats['total_epochs']}"
            if self.server.client.train_status()["status"] not in ("SUBMITTED", "RUNNING"):
                raise SystemExit("The training ended before it could be interrupted.")
            time.sleep(0.2)

    def stop_training(self) -> str:
        """Stop the training; what the server says of its model."""
        return self.server.client.train_stop()["note"]

    def go_back(self, model: str) -> str:
        """Put an earlier model in use."""
        return self.server.client.train_start(MODEL, {"use_model": model})["details"][-1]

    def stats(self) -> dict[str, Any]:
        """What the client shows of trainings and models."""
        return self.server.client.info()["train_stats"][MODEL]

    def dice(self, name: str) -> float:
        """Dice of the model in use on a scan that the server does not have."""
        image = str(self.data / "images" / f"{name}.nii.gz")
        return _mean_dice(
            _voxels(self.server.client.infer(MODEL, "", {"device": "cpu"}, file=image)[0]), self.truth(name)
        )


def annotation_session(
    data: str,
    work: str,
    base_channels: int = 4,
    epochs: int = 5,
    epoch_length: int = 15,
    scans: int = 8,
    tests: int = 4,
    page: str | None = str(PAGE),
) -> None:
    """Go through the session and write the table.

    Args:
        data: folder with ``images/`` and ``labels/`` of hippocampi.
        work: folder to work in; what is there of an earlier session is deleted.
        base_channels: width of the networks.
        epochs: of each training.
        epoch_length: steps of an epoch.
        scans: among the studies.
        tests: scans held back, on which the model in use is measured.
        page: where the table goes, between its marks; None: nowhere.
    """
    folder = Path(work).resolve()
    shutil.rmtree(folder / "session", ignore_errors=True)
    dataset = write_dataset(folder / "session", "hippocampus", base_channels)
    session = Session(Path(data).resolve(), folder / "session", dataset, scans, tests)
    options = {"max_epochs": epochs, "epoch_length": epoch_length, "device": "cpu"}
    names = session.names
    try:
        _go_through(session, names, options)
    finally:
        session.server.__exit__()
    text = _table(session, epochs * epoch_length, base_channels)
    print(text)
    if page is not None:
        replace_table(Path(page), TABLE, text)


def _go_through(session: Session, names: list[str], options: dict[str, Any]) -> None:
    chosen: list[str] = []

    def take_next() -> str:
        chosen.append(session.next())
        return chosen[-1]

    session.step("start the server", session.start)
    for name in names[:2]:
        session.step(f"label {name} and submit", lambda name=name: session.submit(name))
    session.step("train on two labels", lambda: session.train(**options), measure=True)
    session.step("ask for the next scan", take_next)
    session.step("proposal, two clicks a structure", lambda: session.correct(chosen[-1]))
    session.step("submit a wrong label", lambda: session.submit_wrong(chosen[-1]))
    session.step("submit the right one", lambda: session.submit(chosen[-1]))
    first = session.stats()["in_use"]
    session.step("train again, until an epoch is done", lambda: session.begin_training(**options))
    session.step("stop this training", session.stop_training, measure=True)
    session.step("ask for the next scan", take_next)
    session.step("submit its label", lambda: session.submit(chosen[-1]))
    session.step("train again, until an epoch is done", lambda: session.begin_training(**options))
    session.step("kill the server", session.kill)
    session.step("start it again", session.start, measure=True)
    session.step("the same training, to its end", lambda: session.train(**options), measure=True)
    last = session.stats()["in_use"]
    session.step("go back to the first model", lambda: session.go_back(first), measure=True)
    session.step("forth again", lambda: session.go_back(last))
    session.step("train again", lambda: session.train(**options, seed=1), measure=True)


def _table(session: Session, steps: int, base_channels: int) -> str:
    lines = ["| step | seconds | Dice, held back | the server says |\n|---|---|---|---|\n"]
    for what, seconds, told, dice in session.steps:
        lines.append(f"| {what} | {seconds:.1f} | {'' if dice is None else f'{dice:.3f}'} | {told} |\n")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    lines.append(
        f"\n{len(session.names)} hippocampi, {len(session.held_back)} more held back; {steps} steps a training, "
        f"base_channels {base_channels};\nthreads: {threads}, a shared CPU.\n"
    )
    return "".join(lines)


def _voxels(file: str | Path) -> np.ndarray:
    return np.asarray(nibabel.load(file).dataobj)


def _mean_dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the structures of the truth."""
    pairs = [(truth == value, found == value) for value in np.unique(truth) if value]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def _inside(wrong: np.ndarray) -> list[int]:
    """The voxel of the largest part that is nearest to its centre."""
    parts, _ = components(wrong)
    places = np.argwhere(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    return places[np.linalg.norm(places - places.mean(0), axis=1).argmin()].tolist()


if __name__ == "__main__":
    fire.Fire(annotation_session)
