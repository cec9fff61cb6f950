# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own app for bundles, unchanged: it infers with the bundle, and is told that it cannot train it."""

import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monailabel.interfaces.utils.app import app_instance

STOCK = Path(sys.prefix, "monailabel", "sample-apps", "monaibundle")


@pytest.mark.slow
def test_the_stock_app_infers_and_refuses_to_train(copy_bundle, make_studies, tmp_path, monkeypatch):
    if not STOCK.is_dir():
        pytest.skip(f"MONAI Label's sample apps are not in {STOCK}")
    shutil.copytree(STOCK, tmp_path / "app")
    bundle = copy_bundle(tmp_path / "app" / "model" / "dualseg")
    studies = make_studies(3, labels=2)
    monkeypatch.setenv("MONAI_LABEL_STUDIES", str(studies))
    app = app_instance(
        str(tmp_path / "app"), str(studies), {"models": "dualseg", "zoo_source": "none", "sam2": "false"}
    )
    request = {"model": "dualseg", "image": app.datastore().get_unlabeled_images()[0], "device": "cpu"}
    answer = app.infer(request)
    assert answer["params"]["label_names"] == {"left atrium": 1}
    voxels = np.asarray(nibabel.load(answer["file"]).dataobj)
    scan = nibabel.load(studies / f"{request['image']}.nii.gz")
    assert voxels.shape == scan.shape and set(np.unique(voxels)) <= {0, 1}

    before = {path: path.stat().st_mtime_ns for path in (bundle / "models").iterdir()}
    with pytest.raises(Exception) as raised:
        app.train({"model": "dualseg", "max_epochs": 2, "device": "cpu"})
    error = raised.value
    while type(error).__name__ != "DataError":
        error = error.__cause__
    assert "--app monailabel_app" in str(error)
    assert {path: path.stat().st_mtime_ns for path in (bundle / "models").iterdir()} == before
    assert not (bundle / "runs").exists() and not (bundle / "data").exists()
