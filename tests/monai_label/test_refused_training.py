# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own app for bundles cannot train this one; it is not needed here."""

import os
import subprocess
import sys

import pytest

from scripts.errors import DataError
from scripts.monai_label import refuse_stock_app


def test_only_a_training_under_monai_label_on_the_phantom_is_refused(monkeypatch):
    monkeypatch.delenv("MONAI_LABEL_STUDIES", raising=False)
    refuse_stock_app("phantom")
    monkeypatch.setenv("MONAI_LABEL_STUDIES", "studies")
    refuse_stock_app("studies")
    with pytest.raises(DataError, match="monailabel_app"):
        refuse_stock_app("phantom")


def test_the_training_ends_in_one_sentence_before_anything_is_written(bundle_root, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/train.json"]
    command += ["--runs_dir", str(tmp_path / "runs"), "--dataset_dir", str(tmp_path / "data")]
    environment = {**os.environ, "MONAI_LABEL_STUDIES": "studies"}
    done = subprocess.run(command, cwd=bundle_root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "start the server with the bundle's app, --app monailabel_app." in line
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
