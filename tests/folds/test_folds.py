# SPDX-License-Identifier: Apache-2.0
"""Cross-validation: each labelled scan is held out once, nothing is learnt from it, and all count once in the score."""

import csv
import json

import numpy as np
import pytest

from scripts.certainty import learnt_certainty, write_certainty
from scripts.errors import DataError
from scripts.folds import pool_scores, rotate, start_folds
from scripts.reports.case_metrics import COLUMNS, MEASURES
from scripts.runs import Run


def datalist(folder, labelled=5):
    def case(number, role=("image", "label")):
        return {name: str(folder / f"{name}{number}.nii.gz") for name in role}

    return {
        "labels": {0: "background", 1: "heart"},
        "training": [case(number) for number in range(labelled)],
        "unlabeled": [case(10, ["image"])],
        "validation": [case(20)],
        "test": [case(30)],
    }


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_labelled_scan_is_held_out_once_and_seen_nowhere_else(tmp_path, folds):
    given = datalist(tmp_path)
    each = rotate(given, folds)
    held_out = [case["image"] for fold in each for case in fold["test"]]
    assert sorted(held_out) == [case["image"] for case in given["training"]] and len(each) == folds
    for fold in each:
        test = {case["image"] for case in fold["test"]}
        assert test and not test & {c["image"] for s in ("training", "unlabeled", "validation") for c in fold[s]}
        assert len(fold["training"]) + len(test) == 5 and fold["training"]
        assert not any(case["image"].endswith("image30.nii.gz") for s in ("training", "test") for case in fold[s])
        assert fold["validation"] == given["validation"] and fold["unlabeled"] == given["unlabeled"]


@pytest.mark.parametrize("folds", [1, 6, 2.5, True])
def test_more_folds_than_labels_are_refused(tmp_path, folds):
    with pytest.raises(DataError, match="must be a whole number from 2 to the number of labelled scans, 5"):
        rotate(datalist(tmp_path), folds)


def test_an_unfinished_one_goes_on_and_others_are_kept(tmp_path):
    request = {"seed": 0, "max_epochs": "3"}
    first = start_folds(tmp_path, "cv", request, datalist(tmp_path), 2)
    assert [run.folder.name for run in first.folds] == ["fold1", "fold2"]
    fold = json.loads((first.folder / "datalist_fold2.json").read_text())
    assert [case["image"] for case in fold["test"]] == ["../image1.nii.gz", "../image3.nii.gz"]
    assert fold["labels"] == {"0": "background", "1": "heart"}
    assert start_folds(tmp_path, "cv", request, datalist(tmp_path), 2).folder == first.folder
    other = start_folds(tmp_path, "cv", {"seed": 1}, datalist(tmp_path), 2)
    more = start_folds(tmp_path, "cv", request, datalist(tmp_path, labelled=4), 2)
    assert [other.folder.name, more.folder.name] == ["cv_2", "cv_3"]
    first.finish_folds({"finished": "now"})
    assert start_folds(tmp_path, "cv", request, datalist(tmp_path), 2).folder.name == "cv_4"
    other.folds_file.write_text("{")
    with pytest.raises(DataError, match="folds.json: damaged"):
        start_folds(tmp_path, "cv", {"seed": 1}, datalist(tmp_path), 2)


def scores(fold, cases):
    fold.folder.mkdir()
    with fold.scores_file.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for name, dice in cases.items():
            row = dict.fromkeys(MEASURES, 1.0) | {"dice": dice, "empty_pred": False, "empty_label": False}
            row |= {"class": 1, "name": "heart", "network": "ensemble", "agreement": 0.9}
            writer.writerow(row | {"case": name, "image": f"/scans/{name}.nii.gz"})


def test_the_score_is_over_all_scans_not_over_folds(tmp_path, capsys):
    run = start_folds(tmp_path, "cv", {}, datalist(tmp_path), 2)
    scores(run.folds[0], {"a": 0.9, "b": 0.8, "c": 0.7})
    with pytest.raises(DataError, match="fold2: has no metrics.csv"):
        pool_scores(run)
    assert not run.is_finished
    scores(run.folds[1], {"d": 0.2, "e": "nan"})
    for fold, dice in zip(run.folds, ([0.9, 0.8, 0.7], [0.2, np.nan]), strict=True):
        shared = {"entropy": 0.1, "nll": [1.0] * 21, "ece": [0.2] * 21}
        write_certainty(fold, [{"image": f"{one}", "dice": one, "agreement": one, **shared} for one in dice])
    pool_scores(run)
    found = run.summary()["networks"]["ensemble"]["classes"]["heart"]["dice"]
    assert found["mean"] == pytest.approx(np.mean([0.9, 0.8, 0.7, 0.2])) and found["n"] == 4
    assert run.is_finished and Run(run.folder).summary()["cases"] == 5
    learnt = learnt_certainty(run.folds[0])["predicted_dice"]
    assert learnt["slope"] == pytest.approx(1) and learnt["error"] < 1e-9  # four scans of both folds
    assert "0.650 ± 0.269" in capsys.readouterr().out
    assert "0.200; 0.200 with a temperature from the other scans" in run.report.read_text()
    assert '<th scope="row">fold2</th>' in run.report.read_text()
