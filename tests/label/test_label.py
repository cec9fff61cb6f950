# SPDX-License-Identifier: Apache-2.0
"""What the configs use inside MONAI Label; it is not needed here."""

import json
import os

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Spacingd

from scripts.data import DataError, load_datalist
from scripts.label import LoneSpacingd, inference_setting, install_weights, studies_dataset


def scan(path="scan.nii.gz"):
    image = MetaTensor(torch.rand(1, 8, 8, 8), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    image.meta["filename_or_obj"] = path
    return {"image": image, "image_path": path}


def test_spacing_leaves_the_other_keys_alone_and_can_be_inverted():
    spacing = LoneSpacingd(keys="image", pixdim=(1, 1, 1))
    with pytest.raises(AttributeError):
        Spacingd(keys="image", pixdim=(1, 1, 1))(scan())  # MONAI mends it one day: then ours can go
    data = spacing(scan())
    assert data["image"].shape[1] > 8 and data["image_path"] == "scan.nii.gz"
    plain = {"image": scan()["image"]}
    torch.testing.assert_close(spacing(plain)["image"], Spacingd(keys="image", pixdim=(1, 1, 1))(plain)["image"])
    pipeline = Compose([spacing])
    data = pipeline(scan())
    inverted = Invertd("pred", pipeline, orig_keys="image")({**data, "pred": data["image"].clone()})
    assert inverted["pred"].shape == (1, 8, 8, 8)


def test_studies_become_a_datalist(tmp_path, monkeypatch):
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    for name in ("a.nii.gz", "b.nrrd", "labels/final/a.nrrd"):
        (studies / name).touch()
    labels = {"original": {"ext": ".nii.gz"}}
    objects = {
        "a": {"image": {"ext": ".nii.gz"}, "labels": {**labels, "final": {"ext": ".nrrd"}}},
        "b": {"image": {"ext": ".nrrd"}, "labels": labels},
    }
    content = {"images_dir": ".", "labels_dir": "labels", "objects": objects}
    (studies / "datastore_v2.json").write_text(json.dumps(content))
    monkeypatch.setenv("MONAI_LABEL_STUDIES", str(studies))
    folder = studies_dataset(str(tmp_path / "bundle"), {"0": "background", "1": "heart"})
    found = load_datalist(os.path.join(folder, "datalist.json"))
    final = str(studies / "labels" / "final" / "a.nrrd")
    assert found["training"] == [{"image": str(studies / "a.nii.gz"), "label": final}]
    assert found["unlabeled"] == [{"image": str(studies / "b.nrrd")}]
    assert found["labels"] == {0: "background", 1: "heart"} and not found["test"]


def test_studies_that_are_no_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_STUDIES", "http://127.0.0.1:8042/dicom-web")
    with pytest.raises(DataError, match="start the bundle's own app, monailabel_app"):
        studies_dataset(str(tmp_path), {})


def test_new_weights_take_the_place_of_the_old_which_are_kept(tmp_path):
    models, run = tmp_path / "models", tmp_path / "run"
    for folder in (models, run):
        folder.mkdir()
    (models / "model.pt").write_text("old")
    os.utime(models / "model.pt", (0, 86400 * 365))
    (run / "model.pt").write_text("new")
    install_weights(str(run), str(tmp_path))
    assert (models / "model.pt").read_text() == "new"
    [kept] = [path for path in models.iterdir() if path.name != "model.pt"]
    assert kept.read_text() == "old" and kept.name.startswith("model_1971-01-01_")


def test_a_failed_swap_leaves_the_old_weights(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_text("old")
    with pytest.raises(DataError):
        install_weights(str(tmp_path / "no run"), str(tmp_path))
    assert (tmp_path / "models" / "model.pt").read_text() == "old"
    assert not list((tmp_path / "models").glob(".*"))


def test_the_default_run_is_the_phantom_and_under_the_stock_app_the_studies(bundle_root, monkeypatch):
    from monai.bundle import ConfigParser

    def settings():
        parser = ConfigParser()
        parser.read_config(str(bundle_root / "configs" / "train.json"))
        parser["bundle_root"] = str(bundle_root)
        return [parser.get_parsed_content(key) for key in ("stock_app", "labels", "spacing", "patch_size")]

    monkeypatch.delenv("MONAI_LABEL_STUDIES", raising=False)
    assert settings() == [False, {"0": "background", "1": "chamber with branches"}, [1.0, 1.0, 1.0], [32, 32, 32]]
    monkeypatch.setenv("MONAI_LABEL_STUDIES", "studies")
    expected = [inference_setting(str(bundle_root), key) for key in ("labels", "spacing", "patch_size")]
    assert settings() == [True, *expected]
