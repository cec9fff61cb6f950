# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own app for bundles, unchanged: it infers with the bundle and trains it on its studies."""

import json
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monailabel.interfaces.utils.app import app_instance

STOCK = Path(sys.prefix, "monailabel", "sample-apps", "monaibundle")


@pytest.fixture
def studies(make_studies):
    """Hippocampus scans; their two classes as one, since the bundle's own model has one."""
    folder = make_studies(5, labels=3)
    for path in (folder / "labels" / "final").iterdir():
        label = nibabel.load(path)
        voxels = (np.asarray(label.dataobj) > 0).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(voxels, label.affine), path)
    return folder


@pytest.mark.slow
def test_the_stock_app_infers_and_trains(copy_bundle, studies, tmp_path, monkeypatch):
    if not STOCK.is_dir():
        pytest.skip(f"MONAI Label's sample apps are not in {STOCK}")
    shutil.copytree(STOCK, tmp_path / "app")
    bundle = copy_bundle(tmp_path / "app" / "model" / "dualseg")
    config = json.loads((bundle / "configs" / "train.json").read_text())
    (bundle / "configs" / "train.json").write_text(json.dumps(config | {"epoch_length": 3}))
    monkeypatch.setenv("MONAI_LABEL_STUDIES", str(studies))
    app = app_instance(
        str(tmp_path / "app"), str(studies), {"models": "dualseg", "zoo_source": "none", "sam2": "false"}
    )
    name = app.datastore().get_unlabeled_images()[0]
    request = {"model": "dualseg", "image": name, "device": "cpu"}

    def segment():
        answer = app.infer(request)
        assert answer["params"]["label_names"] == {"left atrium": 1}
        return np.asarray(nibabel.load(answer["file"]).dataobj)

    before = segment()
    shipped = torch.load(bundle / "models" / "model.pt", weights_only=True)
    shipped_files = {path.name for path in (bundle / "models").iterdir()}
    app.train({"model": "dualseg", "max_epochs": 2, "device": "cpu"})

    sections = json.loads((bundle / "data" / "studies" / "datalist.json").read_text())
    assert [len(sections[section]) for section in ("training", "unlabeled")] == [3, 2]
    assert not (bundle / "data" / "phantom").exists()
    [run] = (bundle / "runs").iterdir()
    config = json.loads((run / "inference.json").read_text())
    expected = json.loads((bundle / "configs" / "inference.json").read_text())
    assert all(config[key] == expected[key] for key in ("labels", "spacing", "patch_size"))

    weights = {path.name: torch.load(path, weights_only=True) for path in (bundle / "models").iterdir()}
    [kept] = weights.keys() - shipped_files
    assert kept.startswith("model_20") and min(weights, key=len) == "model.pt"
    assert all(torch.equal(weights[kept][key], shipped[key]) for key in shipped)
    assert any(not torch.equal(weights["model.pt"][key], shipped[key]) for key in shipped)
    assert (segment() != before).any(), "inference does not use the new weights"
