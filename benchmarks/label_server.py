# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label server with the bundle's app on 127.0.0.1, as a process of its own that ends with the block."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import requests
from monailabel.client import MONAILabelClient


class LabelServer:
    """Starts the server and waits until it answers; at the end stops it, and what it has started, by process id.

    Args:
        bundle: folder of the bundle; the app keeps its models in ``monailabel_app/model`` there.
        studies: folder of scans.
        conf: the app's options.
        log: file that takes what the server prints.
        patience: seconds to wait for the first answer.
        environment: of the server, beside that of this process; MONAI Label reads its settings there.

    Attributes:
        client: MONAI Label's own client, which 3D Slicer uses too.
        process: the server.
    """

    def __init__(
        self,
        bundle: Path,
        studies: Path,
        conf: Mapping[str, str],
        log: Path,
        patience: float = 180,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.bundle, self.studies, self.conf, self.log, self.patience = bundle, studies, dict(conf), log, patience
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> LabelServer:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "monailabel.main",
            "start_server",
            "--app",
            str(self.bundle / "monailabel_app"),
        ]
        command += ["--studies", str(self.studies), "--host", "127.0.0.1", "--port", str(port)]
        for name, value in self.conf.items():
            command += ["--conf", name, value]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.log.parent, env=self.environment)
        self.client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(self.log.parent))
        deadline = time.monotonic() + self.patience
        while True:
            try:
                self.client.info()
                return self
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise RuntimeError(f"The server did not start: {self.log.read_text()[-2000:]}") from error
                time.sleep(0.5)

    def __exit__(self, *error: object) -> None:
        started = self.children()
        for process in [self.process, *started]:
            process.terminate()
        psutil.wait_procs(started, timeout=20)
        self.process.wait(timeout=60)

    def children(self) -> list[psutil.Process]:
        """What the server has started: trainings, scoring."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def train(self, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Train and wait for the end; the task as the server reports it, with ``status`` and ``details``."""
        self.client.train_start(model, dict(options))
        return self.wait_for_training()

    def wait_for_training(self) -> dict[str, Any]:
        """The newest training's task, once it has ended."""
        while (task := self.client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        return task

    def score(self, method: str) -> dict[str, Any]:
        """Score what is left to score, after any scoring that is under way; the server's summary."""
        address = f"{self.client.get_server_url()}/scoring/"
        while requests.get(address, params={"check_if_running": True}).ok:
            time.sleep(0.5)
        answer = requests.post(address + method, params={"run_sync": True}, json={"device": "cpu"})
        answer.raise_for_status()
        return answer.json()
