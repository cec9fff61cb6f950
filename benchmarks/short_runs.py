# SPDX-License-Identifier: Apache-2.0
"""Trainings that start at once, and one of seconds on crops of real scans, for benchmarks that spoil it.

Everything is imported once; each training is a process forked from this one, which goes through the ``__main__`` of
``monai.bundle`` and the interpreter's own handling of errors, as the command does.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import ignite.engine  # noqa: F401
import matplotlib.figure  # noqa: F401
import monai.bundle
import monai.engines
import monai.handlers  # noqa: F401
import nibabel
import numpy as np
import rich.progress  # noqa: F401
import scipy.ndimage  # noqa: F401
import torch._dynamo  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
for part in ("cli", "data", "engines", "inference", "methods", "networks", "reports", "runs"):
    importlib.import_module(f"scripts.{part}")

inspect.stack()  # the configs ask for it; what it finds out about modules is kept

NAME = "hippocampus_mean_teacher_copy_paste_seed0"
CROP = (24, 32, 24)
OPTIONS = {
    "max_epochs": 4,
    "epoch_length": 4,
    "val_interval": 2,
    "batch_size": 2,
    "unlabeled_batch_size": 2,
    "patch_size": "[16,16,16]",
    "overlap": 0,
    "cache_rate": 0.0,
    "tensorboard": False,
}


def _network(norm: str) -> dict:
    unet = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": "@num_classes", "norm": norm}
    unet |= {"channels": [4, 8], "strides": [2]}
    return {"_target_": "scripts.networks.WithFeatures", "network": unet, "layer": "model.0"}


def _without(part: str, *names: str) -> dict[str, bool]:
    """Overrides that leave handlers of train.json out, by the names of their classes."""
    handlers = json.loads((ROOT / "configs" / "train.json").read_text())[part]["handlers"]
    places = {handler["_target_"].rpartition(".")[2]: place for place, handler in enumerate(handlers)}
    return {f"{part}#handlers#{places[name]}#_disabled_": True for name in names}


SMALL = {
    # Two networks of MONAI's, one with running statistics; no pictures, which take longer than the training.
    "network_def": {"_target_": "scripts.networks.DualNetwork", "a": _network("batch"), "b": _network("instance")},
    **_without("test", "CasePictures", "WorstSlices"),
    **_without("train", "TrainingCurves"),
}
"""Layered on configs/train.json."""


def few_scans(source: Path, folder: Path) -> Path:
    """Two labelled, two unlabelled, one validation and one test scan of the hippocampus, cropped around its centre."""
    whole = json.loads((source / "datalist_8.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)

    def crop(path: str) -> str:
        scan = nibabel.load(source / path)
        start = [(length - size) // 2 for length, size in zip(scan.shape, CROP, strict=True)]
        box = scan.slicer[tuple(slice(first, first + size) for first, size in zip(start, CROP, strict=True))]
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(box.dataobj), box.affine), target)
        return path

    cases = [{key: crop(path) for key, path in case.items()} for case in whole["training"][:4]]
    sections = {"training": cases[:2], "validation": cases[2:3], "test": cases[3:]}
    sections["unlabeled"] = [{"image": crop(case["image"])} for case in whole["unlabeled"][:2]]
    (folder / "datalist_8.json").write_text(json.dumps({"labels": whole["labels"], **sections}))
    (folder / "small.json").write_text(json.dumps(SMALL))
    return folder


def arguments(data: Path, runs: Path, processes: int = 1, **options: object) -> list[str]:
    """Arguments of ``monai.bundle`` for the training."""
    files = ["configs/train.json", "configs/datasets/hippocampus.json"]
    files += [*(["configs/multi_gpu_train.json"] if processes > 1 else []), str(data / "small.json")]
    values = {"dataset_dir": data, "runs_dir": runs, **OPTIONS, **options}
    return ["run", "training", f"--config_file={files}", *(f"--{name}={value}" for name, value in values.items())]


class Process:
    """A training of ``monai.bundle`` in a process forked from this one, or several, in a process group of its own.

    Args:
        words: arguments of ``monai.bundle``.
        log: file to which all processes write.
        processes: how many train together.
        within: called in each process before it starts, with its rank.
    """

    def __init__(
        self, words: list[str], log: Path, processes: int = 1, within: Callable[[int], None] = lambda rank: None
    ) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            self._redirect(log)
            if processes == 1:
                self._run(words, within, 0)
            self._launch(words, within, processes)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self) -> int:
        """The exit code."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def send(self, number: int) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self.pid, number)

    @staticmethod
    def _redirect(log: Path) -> None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)

    @staticmethod
    def _run(words: list[str], within: Callable[[int], None], rank: int) -> None:
        """Train in this process, and end it."""
        code = 0
        try:
            os.chdir(ROOT)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background has ignored
            sys.argv = ["monai.bundle", *words]
            within(rank)
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 130 if isinstance(error, KeyboardInterrupt) else 1
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            traceback.print_exc()
        os._exit(code)

    def _launch(self, words: list[str], within: Callable[[int], None], processes: int) -> None:
        """Start one process a rank and end when all have; one that fails ends the others, as torchrun does."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        children = []
        for rank in range(processes):
            child = os.fork()
            if child == 0:
                os.environ.update(job, RANK=str(rank), LOCAL_RANK=str(rank))
                self._run(words, within, rank)
            children.append(child)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # the processes have got it, too
        codes = []
        while children:
            child, status = os.wait()
            children.remove(child)
            codes.append(os.waitstatus_to_exitcode(status))
            if codes[-1] not in (0, 143, 130):
                for other in children:
                    os.kill(other, signal.SIGKILL)
        os._exit(next((code % 256 for code in codes if code), 0))


class Training(Process):
    """A training on the few scans, in one process or several.

    Args:
        data: folder of :func:`few_scans`.
        runs: folder for its run.
        log: file to which all processes write.
        processes: how many train together.
        within: called in each process before it starts, with its rank.
        options: values of the config.
    """

    def __init__(
        self,
        data: Path,
        runs: Path,
        log: Path,
        processes: int = 1,
        within: Callable[[int], None] = lambda rank: None,
        **options: object,
    ) -> None:
        super().__init__(arguments(data, runs, processes, **options), log, processes, within)


def wait_for(path: Path, text: str, training: Training, seconds: float = 300) -> None:
    """Until a file holds a text, or the training has ended."""
    end = time.monotonic() + seconds
    while training.poll() is None and time.monotonic() < end:
        if path.exists() and text in path.read_text(errors="replace"):
            return
        time.sleep(0.01)


def digest(path: Path) -> str:
    """sha256 of a file; empty when there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def leftovers(runs: Path) -> list[str]:
    """Files that a killed program has left and nobody has removed."""
    return [path.name for path in runs.rglob(".*")]
