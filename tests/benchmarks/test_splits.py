# SPDX-License-Identifier: Apache-2.0
"""Datalists with fewer labels, or all, follow from those that there are."""

import json

import pytest

from scripts.data import load_datalist


@pytest.fixture
def data(tmp_path):
    """Lists of four and six labelled scans out of eight; the test scan is another one."""
    folder = tmp_path / "data"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for number in range(9):
            (folder / kind / f"s{number}.nii.gz").touch()
    cases = [{"image": f"images/s{number}.nii.gz", "label": f"labels/s{number}.nii.gz"} for number in range(9)]
    for count in (4, 6):
        unlabelled = [{"image": case["image"]} for case in cases[count:8]]
        content = {"labels": {"0": "background", "1": "heart"}, "training": cases[:count], "unlabeled": unlabelled}
        (folder / f"datalist_{count}.json").write_text(json.dumps({**content, "test": cases[8:]}))
    return folder


def numbers(cases):
    return [int(case["image"][-8]) for case in cases]


def test_what_is_there_is_taken_as_it_is(benchmark_scripts, data, tmp_path):
    assert benchmark_scripts("splits").folder_with(data, "4", tmp_path / "work") == data
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(("labels", "labelled"), [("2", 2), ("5", 5), ("all", 8)])
def test_others_are_made_and_the_data_stay(benchmark_scripts, data, tmp_path, labels, labelled):
    before = sorted(data.rglob("*"))
    folder = benchmark_scripts("splits").folder_with(data, labels, tmp_path / "work")
    assert folder == tmp_path / "work" and sorted(data.rglob("*")) == before
    made = load_datalist(folder / f"datalist_{labels}.json")
    assert numbers(made["training"]) == list(range(labelled))
    assert numbers(made["unlabeled"]) == list(range(labelled, 8)) and numbers(made["test"]) == [8]
    assert all(case["label"] == case["image"].replace("images", "labels") for case in made["training"])
    assert not any("label" in case for case in made["unlabeled"])


def test_what_cannot_be_made_is_named(benchmark_scripts, data, tmp_path):
    splits = benchmark_scripts("splits")
    with pytest.raises(SystemExit, match="no datalist_7.json"):
        splits.folder_with(data, "7", tmp_path / "work")
    (data / "labels" / "s7.nii.gz").unlink()
    with pytest.raises(SystemExit, match="s7.nii.gz: missing"):
        splits.folder_with(data, "all", tmp_path / "work")
