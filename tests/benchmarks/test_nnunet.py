# SPDX-License-Identifier: Apache-2.0
"""nnU-Net gets the labelled training scans and nothing else, and is scored as our own runs are."""

import json

import nibabel
import numpy as np
import pytest

from scripts.data import load_datalist
from scripts.errors import DataError

SHAPE = (6, 7, 8)
AFFINE = np.diag([-1.0, 2.0, 1.5, 1.0])
AFFINE[:3, 3] = 3, 4, 5


@pytest.fixture
def peer(benchmark_scripts):
    return benchmark_scripts("peers.nnunet")


@pytest.fixture
def datalist(tmp_path):
    """Two labelled scans of two channels, one unlabelled, two test scans; 0 and 9 are classes, 7 is ignored."""
    generator = np.random.default_rng(0)
    content = {"labels": {"0": "background", "1": "heart"}, "values": [0, 9], "ignore": 7, "modality": ["CT", "PET"]}
    for number, section in enumerate(("training", "training", "unlabeled", "test", "test")):
        channels = [f"s{number}_{channel:04}.nii.gz" for channel in range(2)]
        for file in channels:
            voxels = generator.normal(size=SHAPE).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), tmp_path / file)
        label = 9 * (generator.random(SHAPE) < 0.4).astype(np.uint8)
        label[:2] = 7 if section == "training" else 0
        # drawn on a copy with the first axis reversed
        nibabel.save(nibabel.Nifti1Image(label[::-1], AFFINE @ flip()), tmp_path / f"label{number}.nii.gz")
        case = {"image": channels, "label": f"label{number}.nii.gz"}
        content.setdefault(section, []).append(case)
    (tmp_path / "list.json").write_text(json.dumps(content))
    return load_datalist(tmp_path / "list.json")


def flip():
    matrix = np.diag([-1.0, 1.0, 1.0, 1.0])
    matrix[0, 3] = SHAPE[0] - 1
    return matrix


def voxels(path):
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("seconds", [0.01, 1.7, 3.2, 40])
def test_a_training_takes_the_minutes_that_it_is_given(peer, seconds):
    epochs, iterations = peer.schedule(39, seconds, 250)
    assert epochs * iterations * seconds == pytest.approx(39 * 60, rel=0.01)
    assert 125 <= iterations <= 375 or epochs == 1


def test_the_raw_dataset_has_the_labelled_scans_and_the_images_of_the_test_scans(peer, datalist, tmp_path):
    folder = tmp_path / "raw" / "Dataset001_mine"
    peer.make_dataset(datalist, folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [
        f"images{kind}/s{number}_000{c}"
        for kind, numbers in (("Tr", (0, 1)), ("Ts", (3, 4)))
        for number in numbers
        for c in (0, 1)
    ]
    expected = [f"{name}.nii.gz" for name in (*names, "labelsTr/s0", "labelsTr/s1")]
    assert files == sorted(["dataset.json", *expected])
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "heart": 1, "ignore": 2} and content["numTraining"] == 2
    assert content["channel_names"] == {"0": "CT", "1": "PET"} and content["file_ending"] == ".nii.gz"
    for number in (0, 1):
        image = nibabel.load(folder / "imagesTr" / f"s{number}_0001.nii.gz")
        assert np.array_equal(
            voxels(folder / "imagesTr" / f"s{number}_0001.nii.gz"), voxels(tmp_path / f"s{number}_0001.nii.gz")
        )
        label = nibabel.load(folder / "labelsTr" / f"s{number}.nii.gz")
        assert np.allclose(image.affine, AFFINE) and np.allclose(label.affine, AFFINE)
        drawn = voxels(tmp_path / f"label{number}.nii.gz")[::-1]
        assert np.array_equal(np.asarray(label.dataobj), np.select([drawn == 9, drawn == 7], [1, 2], 0))


def test_a_complete_dataset_is_kept_and_an_interrupted_one_made_again(peer, datalist, tmp_path):
    folder = tmp_path / "raw" / "Dataset001_mine"
    peer.make_dataset(datalist, folder)
    (folder / "labelsTr" / "s0.nii.gz").unlink()
    peer.make_dataset(datalist, folder)
    assert not (folder / "labelsTr" / "s0.nii.gz").exists()
    (folder / "dataset.json").unlink()
    peer.make_dataset(datalist, folder)
    assert (folder / "labelsTr" / "s0.nii.gz").exists()


def test_what_nnunet_cannot_learn_from_is_named_and_nothing_written(peer, datalist, tmp_path):
    folder = tmp_path / "raw" / "Dataset001_mine"
    datalist["training"][1]["classes"] = [1]
    with pytest.raises(DataError, match="label1.nii.gz: not all classes"):
        peer.make_dataset(datalist, folder)
    del datalist["training"][1]["classes"]
    datalist["test"].append(datalist["training"][0])
    with pytest.raises(DataError, match="s0: two scans have this name"):
        peer.make_dataset(datalist, folder)
    assert not folder.exists()


def test_predictions_are_scored_as_our_own_are_and_become_a_record(peer, datalist, tmp_path):
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    with pytest.raises(SystemExit, match="no s3.nii.gz"):
        peer.score(datalist, predictions, tmp_path / "scores")
    dice = {}
    for number in (3, 4):
        truth = voxels(tmp_path / f"label{number}.nii.gz")[::-1] == 9
        pred = truth & (np.arange(SHAPE[2]) < 2 * number - 2)
        dice[f"s{number}_0000"] = 2 * pred.sum() / (pred.sum() + truth.sum())
        nibabel.save(nibabel.Nifti1Image(pred.astype(np.uint8), AFFINE), predictions / f"s{number}.nii.gz")
    summary = peer.score(datalist, predictions, tmp_path / "scores")
    assert summary["cases"] == 2
    assert summary["networks"]["ensemble"]["classes"]["heart"]["dice"]["mean"] == pytest.approx(
        np.mean(list(dice.values()))
    )
    found = peer.records.scores(peer.Run(tmp_path / "scores"))
    assert found["scans"]["dice"] == pytest.approx(dice, abs=1e-5) and list(found["networks"]) == ["ensemble"]
