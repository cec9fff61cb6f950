# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from multiprocessing import get_context
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import label as components

from scripts.data import DataError, check_data, load_datalist, phantom_case, phantom_dataset

SMALL = {"size": (20, 22, 24), "labeled": 2, "unlabeled": 3, "validation": 1, "test": 2, "progress": False}


@pytest.fixture(scope="module")
def small_phantom(tmp_path_factory) -> Path:
    return Path(phantom_dataset(tmp_path_factory.mktemp("demo") / "phantom", **SMALL))


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_writes_a_datalist_that_loads_and_passes_the_check(small_phantom):
    datalist = load_datalist(small_phantom / "datalist.json")
    counts = {section: len(datalist[section]) for section in ("training", "unlabeled", "validation", "test")}
    assert counts == {"training": 2, "unlabeled": 3, "validation": 1, "test": 2}
    report = check_data(datalist, progress=False)
    assert not report.warnings
    assert {case.shape for case in report.cases} == {(20, 22, 24)}


def test_unlabeled_cases_have_no_label_file(small_phantom):
    assert all("label" not in case for case in load_datalist(small_phantom / "datalist.json")["unlabeled"])
    assert len(list((small_phantom / "labels").iterdir())) == 5


def test_affine_holds_spacing_and_an_origin_off_zero(tmp_path):
    folder = phantom_dataset(tmp_path / "p", **SMALL | {"spacing": (0.5, 1.0, 2.0)})
    image = nibabel.load(load_datalist(folder + "/datalist.json")["training"][0]["image"])
    assert image.header.get_zooms() == (0.5, 1.0, 2.0)
    assert np.abs(image.affine[:3, 3]).min() > 0


def test_second_run_reuses_the_files(small_phantom):
    before = {file: file.stat().st_mtime_ns for file in small_phantom.rglob("*")}
    assert phantom_dataset(small_phantom, **SMALL) == str(small_phantom)
    assert {file: file.stat().st_mtime_ns for file in small_phantom.rglob("*")} == before


def test_same_seed_same_voxels_other_seed_other_voxels(small_phantom, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    phantom_dataset(again, **SMALL)
    phantom_dataset(other, seed=1, **SMALL)
    first = "images/phantom_000.nii.gz"
    voxels = {f: np.asarray(nibabel.load(f / first).dataobj) for f in (small_phantom, again, other)}
    assert (voxels[small_phantom] == voxels[again]).all()
    assert (voxels[small_phantom] != voxels[other]).any()


def test_interrupted_run_leaves_nothing_and_the_next_one_completes(tmp_path, monkeypatch):
    import scripts.data.phantom as module

    calls = []

    def interrupted(rng, size):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return phantom_case(rng, size)

    monkeypatch.setattr(module, "phantom_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        phantom_dataset(tmp_path / "p", **SMALL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    load_datalist(phantom_dataset(tmp_path / "p", **SMALL) + "/datalist.json")


def _build(folder: str) -> None:
    phantom_dataset(folder, **SMALL)


def test_processes_that_start_together_end_with_one_complete_folder(tmp_path, small_phantom):
    context = get_context("fork")
    processes = [context.Process(target=_build, args=(str(tmp_path / "p"),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["p"]
    assert content(tmp_path / "p").keys() == content(small_phantom).keys()


def test_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not lose")
    with pytest.raises(DataError, match="not empty.*nothing was written"):
        phantom_dataset(tmp_path, **SMALL)
    assert content(tmp_path) == {"thesis.txt": b"do not lose"}


def test_phantom_of_other_arguments_is_refused_not_reused(small_phantom):
    with pytest.raises(DataError, match="other data than asked for"):
        phantom_dataset(small_phantom, seed=7, **SMALL)


def test_missing_volume_is_noticed(tmp_path):
    folder = Path(phantom_dataset(tmp_path / "p", **SMALL))
    (folder / "images" / "phantom_001.nii.gz").unlink()
    with pytest.raises(DataError, match="1 files of the demo data are missing. Delete the folder"):
        phantom_dataset(folder, **SMALL)


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "p").mkdir()
    phantom_dataset(tmp_path / "p", **SMALL)
    assert json.loads((tmp_path / "p" / "datalist.json").read_text())["name"] == "phantom"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (8, 48, 48)}, "at least 16 voxels"),
        ({"size": (48, 48)}, "three numbers"),
        ({"spacing": (1, 0, 1)}, "three positive numbers"),
        ({"labeled": 0}, "at least one labelled case"),
        ({"test": -1}, "no count below 0"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        phantom_dataset(tmp_path / "p", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def cases():
    return [phantom_case(np.random.default_rng([0, index])) for index in range(4)]


def test_chamber_and_branches_are_one_piece_of_varying_size(cases):
    for _, label in cases:
        pieces, _count = components(label, np.ones((3, 3, 3)))
        assert np.bincount(pieces.ravel())[1:].max() > 0.97 * label.sum()
        assert 0.01 < label.mean() < 0.12
    assert np.ptp([label.sum() for _, label in cases]) > 500


def test_intensity_alone_does_not_find_the_chamber(cases):
    """With the best threshold for each case the look-alikes keep the Dice far from that of a network."""
    for image, label in cases:
        dice = []
        for threshold in np.percentile(image, np.arange(60, 99.5, 1)):
            found = image > threshold
            dice.append(2 * (found & (label > 0)).sum() / (found.sum() + label.sum()))
        assert max(dice) < 0.75


def test_noise_and_bias_field_are_there(cases):
    for image, label in cases:
        inside = image[label > 0].astype(float)
        assert inside.std() / inside.mean() > 0.1
        assert image.dtype == np.int16 and image.min() >= 0
