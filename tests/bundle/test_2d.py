# SPDX-License-Identifier: Apache-2.0
"""From a folder of 2D images to segmentations: no config, the same commands, results on the same pixels."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import run
from monai.data import load_net_with_metadata
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from scripts.cli import main
from scripts.cli.training.find_model import prediction_configs
from scripts.data import DataError, check_data, find_images, load_datalist
from scripts.runs import Run

SIZE = (64, 96)  # rows, columns


def blob(seed):
    """An image with a bright ellipse at its upper right, and where that is; both [rows, columns]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(SIZE)
    inside = ((rows - rng.uniform(16, 20)) / 9) ** 2 + ((columns - rng.uniform(68, 74)) / 13) ** 2 < 1
    return (60 + 120 * inside + rng.normal(0, 8, SIZE)).clip(0, 255).astype(np.uint8), inside


def write_dicom(path, pixels):
    """A digital X-ray image: nothing in it says where in the patient it lies."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = (
        ExplicitVRLittleEndian,
        DigitalXRayImageStorageForPresentation,
    )
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID, file.StudyInstanceUID, file.Modality = generate_uid(), generate_uid(), "DX"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.ImagerPixelSpacing, file.PixelData = 15, [0.5, 0.5], pixels.astype(np.uint16).tobytes()
    pydicom.dcmwrite(path, file, enforce_file_format=True)


def command(*words) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return caught.value.code


def write_folder(folder: Path, count: int, labelled: int, colour: bool = False) -> Path:
    for role in ("images", "labels"):
        (folder / role).mkdir(parents=True)
    for number in range(count):
        image, inside = blob(number)
        shown = np.stack([image, 255 - image, image // 2], axis=-1) if colour else image
        Image.fromarray(shown).save(folder / "images" / f"case{number:02d}.png")
        if number < labelled:
            Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "labels" / f"case{number:02d}.png")
    return folder


def started(bundle_root, names, run_id="run", **options):
    files = [str(name) if Path(name).is_absolute() else str(bundle_root / "configs" / f"{name}.json") for name in names]
    run(run_id=run_id, config_file=files, bundle_root=str(bundle_root), **options)


def trained(bundle_root, data, runs, **options) -> Path:
    small = {"epoch_length": 6, "base_channels": 4, "stem_stride": 1, "tensorboard": False, **options}
    names = ("train", "datasets/folder")
    started(bundle_root, names, "training", dataset_dir=str(data), runs_dir=str(runs), **small)
    return next(runs.glob("*/run.json")).parent


def dice(pred, truth):
    return 2 * (pred & truth).sum() / (pred.sum() + truth.sum())


@pytest.mark.slow
def test_a_folder_of_png(bundle_root, tmp_path):
    data = write_folder(tmp_path / "slides", count=12, labelled=8)
    words = ("--labeled=4", "--validation=2", "--test=2", "--values=0,255", "--names=background,blob")
    assert command("split", data, *words) == 0
    assert json.loads((data / "datalist.json").read_text())["spatial_dims"] == 2
    assert command("check", data) == 0
    options = {"max_epochs": 6, "warm_up": 0.67, "val_interval": 2, "learning_rate": 0.01, "batch_size": 2}
    folder = trained(bundle_root, data, tmp_path / "runs", unlabeled_batch_size=2, **options)
    override = json.loads((folder / "inference.json").read_text())
    assert override["patch_size"] == [96, 64] and override["spacing"] == [1.0, 1.0] and override["spatial_dims"] == 2
    assert Run(folder).largest_parts() == override.get("largest_component", [])
    weights = torch.load(folder / "model.pt", weights_only=True)
    assert {value.ndim for name, value in weights.items() if name.endswith("conv1.0.weight")} == {4}
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert {Path(row["image"]).suffix for row in rows} == {".png"} and all(float(row["hd95_mm"]) >= 0 for row in rows)
    assert "report.html" in {path.name for path in folder.iterdir()}

    scans, results = tmp_path / "in", tmp_path / "out"
    scans.mkdir()
    for number in (20, 21):  # never seen
        Image.fromarray(blob(number)[0]).save(scans / f"new{number}.png")
    nibabel.save(nibabel.Nifti1Image(blob(22)[0].T[:, ::-1], np.diag([1, 1, 2, 1])), scans / "new22.nii.gz")
    options = {"dataset_dir": str(scans), "output_dir": str(results), "uncertainty": True, "review": True}
    started(bundle_root, ("inference", folder / "inference.json"), **options)
    for number in (20, 21):
        written = Image.open(results / f"new{number}_seg.png")
        pred, truth = np.asarray(written), blob(number)[1]
        assert written.mode == "L" and pred.shape == SIZE and set(np.unique(pred)) <= {0, 255}
        assert dice(pred > 0, truth) > 0.5  # the ellipse is not where any transposition or flip would put it
        assert max(dice(turned > 0, truth) for turned in (pred[::-1], pred[:, ::-1], pred[::-1, ::-1])) < 0.3
    volume = nibabel.load(results / "new22_seg.nii.gz")
    assert volume.shape == (96, 64, 1) and np.allclose(volume.affine, np.diag([1, 1, 2, 1]))
    assert dice(np.asarray(volume.dataobj)[:, ::-1, 0].T > 0, blob(22)[1]) > 0.5
    assert nibabel.load(results / "new20_entropy.nii.gz").shape == (96, 64, 1)
    assert next(csv.DictReader((results / "review.csv").open()))["blob cm2"]

    started(
        bundle_root,
        ("train", folder / "config.json", "evaluate"),
        ckpt_path=str(folder / "model.pt"),
        output_dir=str(tmp_path / "evaluation"),
    )
    again = list(csv.DictReader((tmp_path / "evaluation" / "metrics.csv").open()))
    assert [row["dice"] for row in again] == [row["dice"] for row in rows]

    configs, [model] = prediction_configs([str(folder)])
    exports = [*configs, bundle_root / "configs" / "export.json"]
    started(bundle_root, exports, ckpt_path=str(model), output_dir=str(tmp_path / "export"))
    network, meta, _ = load_net_with_metadata(str(tmp_path / "export" / "model.ts"))
    assert meta["patch_size"] == [96, 64]
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(tmp_path / "export" / "model.onnx"), providers=["CPUExecutionProvider"])
    for size in ((1, 1, 96, 64), (2, 1, 32, 80)):
        x = torch.randn(size)
        [found] = session.run(None, {"image": x.numpy()})
        with torch.no_grad():
            assert np.abs(found - network(x).numpy()).max() < 1e-4


def test_x_ray_images_are_scans_each_and_take_labels_in_png(bundle_root, tmp_path):
    data = tmp_path / "x_ray"
    for role in ("images", "labels"):
        (data / role).mkdir(parents=True)
    for number in range(3):
        image, inside = blob(number)
        write_dicom(data / "images" / f"case{number}.dcm", image)
        Image.fromarray(inside.astype(np.uint8)).save(data / "labels" / f"case{number}.png")
    assert command("split", data) == 0
    datalist = load_datalist(data / "datalist.json")
    assert datalist["spatial_dims"] == 2 and len(datalist["training"]) == 3
    report = check_data(datalist, progress=False)
    assert report.cases[0].spacing == (0.5, 0.5, 1.0) and report.cases[0].shape == (96, 64, 1)
    assert [Path(case["image"]).name for case in find_images(data / "images")] == [f"case{n}.dcm" for n in range(3)]


@pytest.mark.slow
def test_colour_images_train_networks_of_three_channels(bundle_root, tmp_path):
    data = write_folder(tmp_path / "colour", count=3, labelled=3, colour=True)
    assert command("split", data, "--labeled=2", "--values=0,255") == 0
    folder = trained(bundle_root, data, tmp_path / "runs", max_epochs=1, epoch_length=1)
    assert json.loads((folder / "inference.json").read_text())["in_channels"] == 3
    (tmp_path / "in").mkdir()
    shutil.copy(data / "images" / "case00.png", tmp_path / "in")
    options = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out")}
    started(bundle_root, ("inference", folder / "inference.json"), **options)
    assert Image.open(tmp_path / "out" / "case00_seg.png").size == (96, 64)


def test_pictures_and_volumes_in_one_folder_are_refused(tmp_path, capsys):
    data = write_folder(tmp_path / "both", count=2, labelled=2)
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), data / "images" / "volume.nii.gz")
    assert command("split", data, "--values=0,255") == 1
    shown = capsys.readouterr().err
    assert "case00.png: a 2D image, but" in shown and "volume.nii.gz is a 3D scan" in shown
    assert not (data / "datalist.json").exists()


def test_a_3d_model_names_a_picture_that_it_is_given(tmp_path):
    data = write_folder(tmp_path / "flat", count=1, labelled=0)
    case = {"image": str(data / "images" / "case00.png")}
    with pytest.raises(DataError, match=r"case00.png: 2D, shape 96 x 64. Only 3D scans"):
        check_data({"labels": {0: "background", 1: "blob"}, "unlabeled": [case]}, progress=False)
