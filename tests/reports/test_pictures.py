# SPDX-License-Identifier: Apache-2.0
"""Pictures of cases and of training: which cases, which planes, which curves."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from matplotlib.image import imread
from monai.data import MetaTensor

from scripts.annotation import CLASSES, IGNORED
from scripts.reports import CasePictures, TrainingCurves, WorstSlices, pictures, plot_training_curves
from scripts.reports.cases import Structure
from scripts.reports.pictures import middle_planes
from scripts.runs import RunLog


def case(name, shift, size=(16, 14, 12)):
    label = torch.zeros(1, *size, dtype=torch.long)
    label[0, 4:10, 4:10, 4:10] = 1
    image = MetaTensor(torch.rand(1, *size), meta={"filename_or_obj": f"/data/{name}.nii.gz"})
    return {"image": image, "label": MetaTensor(label), "pred": label.roll(shift, dims=1)}


def evaluate(handler, items):
    engine = Engine(lambda engine, batch: batch)
    handler.attach(engine)
    engine.run([[item] for item in items])


def test_the_worst_median_and_best_case_are_drawn(tmp_path, monkeypatch):
    drawn = Mock(wraps=pictures.plot_case)
    monkeypatch.setattr(pictures, "plot_case", drawn)
    # Dice falls with the shift: 1, 5/6, 4/6, 3/6, 0.
    evaluate(CasePictures(2, tmp_path), [case(f"s{s}", s) for s in (3, 0, 6, 1, 2)])
    assert [call.args[2] for call in drawn.call_args_list] == [
        "worst of 5: s6, Dice 0.000",
        "median of 5: s2, Dice 0.667",
        "best of 5: s0, Dice 1.000",
    ]
    files = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert files == ["best.png", "median.png", "worst.png"]
    assert all(imread(tmp_path / "pictures" / name).std() > 0.05 for name in files)


def test_a_missed_class_counts_as_zero_and_one_that_is_nowhere_not_at_all(tmp_path):
    handler = CasePictures(4, tmp_path)
    item = case("x", 0)
    item["label"][0, 12:14] = 2  # missed by the prediction; class 3 is in neither
    evaluate(handler, [item])
    assert handler.cases["/data/x.nii.gz"].dice == pytest.approx(0.5)


def test_a_case_is_ranked_by_what_was_annotated_in_it(tmp_path):
    """Class 1 is right where it was drawn, wrong elsewhere; class 2 was not annotated, and is not the case's fault."""
    item = case("x", 0)
    item["pred"][0, :, :5] = 1
    item["pred"][0, :, 12:] = 2
    item["label"][0, :, :5] = IGNORED
    item["label"].meta[CLASSES] = torch.tensor([True, True, False])
    handlers = CasePictures(3, tmp_path), WorstSlices(3, tmp_path)
    for handler in handlers:
        evaluate(handler, [item])
    assert handlers[0].cases["/data/x.nii.gz"].dice == handlers[1].cases[0].dice == 1.0
    planes = handlers[0].cases["/data/x.nii.gz"].planes
    assert {value for plane in planes for value in np.unique(plane[1])} == {0, 1}
    item["label"].meta[CLASSES][2] = True
    for handler in handlers:
        evaluate(handler, [item])
    assert handlers[0].cases["/data/x.nii.gz"].dice == handlers[1].cases[0].dice == 0.5


def test_only_planes_are_kept(tmp_path):
    handler = CasePictures(2, tmp_path)
    evaluate(handler, [case("x", 0)])
    (kept,) = handler.cases.values()
    assert all(array.ndim == 2 and array.base is None for plane in kept.planes for array in plane[:3])


def test_planes_meet_the_label_and_point_right_anterior_superior_whatever_the_orientation():
    label = np.zeros((20, 16, 12), dtype=np.uint8)
    label[14:18, 2:5, 8:11] = 1
    image = label * np.arange(12, dtype=np.float32)
    turned = np.diag([1.0, 2.0, 3.0, 1.0])
    upright = middle_planes(image, label, label, turned)
    # The same scan stored as (S to I, P to A, R to L) must look the same.
    stored = [np.transpose(a[::-1, :, ::-1], (2, 1, 0)) for a in (image, label, label)]
    again = middle_planes(*stored, np.array([[0, 0, -1.0, 0], [0, 2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]]))
    for one, other in zip(upright, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
        assert one[3:] == other[3:]
        assert one[1].any()
    assert [plane[3:] for plane in upright] == [
        ("L → R", "P → A", 2.0),
        ("L → R", "I → S", 3.0),
        ("P → A", "I → S", 1.5),
    ]


def test_contours_lie_on_the_voxels_they_outline():
    mask = np.zeros((9, 9), dtype=np.uint8)
    mask[2:5, 3:8] = 1
    plane = (np.random.default_rng(0).random((9, 9)), mask, mask, "x", "y", 1.0)
    ax = pictures.plot_case([plane], [Structure("chamber", (1,))], "title").axes[0]
    for outline in ax.collections:
        columns, rows = outline.get_paths()[0].vertices.T
        assert (columns.min(), columns.max(), rows.min(), rows.max()) == (2.5, 7.5, 1.5, 4.5)


def test_an_image_on_the_grid_of_the_network_is_drawn_on_that_of_the_label(tmp_path):
    item = case("x", 0)
    fine = item["label"].float()
    coarse = MetaTensor(fine[:, ::2, ::2, ::2], affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    coarse.meta["filename_or_obj"] = "/data/x.nii.gz"
    handler = CasePictures(2, tmp_path)
    evaluate(handler, [item | {"image": coarse}])
    for image, label, *_ in handler.cases["/data/x.nii.gz"].planes:
        assert image.shape == label.shape
        assert image[label == 1].min() >= 0.125 and image[label == 0].max() <= 0.5


def test_a_case_without_label_and_prediction_is_not_ranked(tmp_path):
    item = case("x", 0)
    item["label"][:] = 0
    evaluate(CasePictures(2, tmp_path), [item | {"pred": torch.zeros(1, 16, 14, 12)}])
    assert not (tmp_path / "pictures").exists()


def test_two_dimensional_cases_are_drawn(tmp_path):
    label = torch.zeros(1, 20, 30, dtype=torch.long)
    label[0, 5:9, 5:20] = 1
    image = MetaTensor(torch.rand(1, 20, 30), meta={"filename_or_obj": "/data/x.png"})
    evaluate(CasePictures(2, tmp_path), [{"image": image, "label": MetaTensor(label), "pred": label}])
    assert (tmp_path / "pictures" / "best.png").exists()


def test_curves_of_losses_pseudo_labels_and_validation(tmp_path):
    log = RunLog(tmp_path / "train_log.jsonl")
    for epoch in (1, 2, 3):
        shares = {"kept_fraction": 0.8, "pseudo_class_share": [0.9, 0.1]} if epoch > 1 else {}
        log.append({"epoch": epoch, "losses": {"loss": 1 / epoch}} | shares)
        log.append({"epoch": epoch, "validation": {"dice": 0.2 * epoch}})
    log.append({"epoch": 3, "alarm": "collapsed"})
    engine = Engine(lambda engine, batch: None)
    TrainingCurves(tmp_path, {"1": "chamber"}).attach(engine)
    engine.run([0])
    picture = imread(tmp_path / "pictures" / "training_curves.png")
    assert picture.shape[1] > 4 * picture.shape[0]  # four panels beside each other


def test_a_log_without_an_epoch_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no epoch"):
        plot_training_curves(tmp_path / "train_log.jsonl", tmp_path / "x.png")
