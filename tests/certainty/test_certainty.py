# SPDX-License-Identifier: Apache-2.0
"""How sure: against NumPy, and on networks that are known to be too sure."""

import csv
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from scripts.certainty import (
    TEMPERATURES,
    CertaintyReport,
    NoteCalibrationd,
    NoteCertaintyd,
    ReviewCsv,
    fit_temperature,
    learnt_certainty,
)
from scripts.certainty.calibration import calibration
from scripts.certainty.note import agreement
from scripts.certainty.report import certainty_of
from scripts.errors import DataError
from scripts.inference import temper
from scripts.runs import Run

LABELS = {"0": "background", "1": "left", "2": "right"}


def ece(probability, truth, bins=15):
    """Expected calibration error of one class, by NumPy."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    return sum(
        (place == b).mean() * abs(probability[place == b].mean() - truth[place == b].mean()) for b in np.unique(place)
    )


def over_sure(temperature=2.0, size=24):
    """Probabilities that are right at a temperature, and labels drawn from those."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, size, size, size, generator=generator)
    right = logits.softmax(0)
    label = torch.multinomial(right.flatten(1).T, 1, generator=generator)[:, 0].reshape(size, size, size)
    return (logits * temperature).softmax(0), label


def test_calibration_is_that_of_numpy_and_the_temperature_is_found():
    probabilities, label = over_sure()
    found = calibration(probabilities, label)
    expected = np.mean([ece(probabilities[c].numpy().ravel(), (label == c).numpy().ravel()) for c in (1, 2)])
    assert found["ece"][TEMPERATURES.index(1.0)] == pytest.approx(expected, abs=2e-3) and expected > 0.05
    likelihood = -np.log(np.take_along_axis(probabilities.numpy(), label[None].numpy(), 0)).mean()
    assert found["nll"][TEMPERATURES.index(1.0)] == pytest.approx(likelihood, rel=1e-4)
    assert fit_temperature([found["nll"]]) == 2.0
    assert found["ece"][TEMPERATURES.index(2.0)] < 0.02


def test_sure_background_around_the_structures_changes_nothing():
    probabilities, label = over_sure(size=8)
    padded = torch.nn.functional.pad(probabilities, [9] * 6)
    padded[0][padded.sum(0) == 0] = 1
    assert calibration(padded, torch.nn.functional.pad(label, [9] * 6)) == calibration(probabilities, label)
    nothing = torch.zeros(3, 4, 4, 4)
    nothing[0] = 1
    assert calibration(nothing, torch.zeros(4, 4, 4)) == {"ece": [], "nll": []}


def test_what_nobody_has_annotated_does_not_count(tmp_path):
    probabilities, label = over_sure(size=12)
    partly = torch.cat([label, torch.full_like(label, -1)])
    doubled = torch.cat([probabilities, probabilities.flip(0)], 1)
    found, expected = calibration(doubled, partly), calibration(probabilities, label)
    assert np.allclose(found["nll"], expected["nll"]) and np.allclose(found["ece"], expected["ece"], atol=1e-6)
    assert calibration(probabilities, torch.full_like(label, -1)) == {"ece": [], "nll": []}
    some = MetaTensor(label[None], meta={"classes": torch.tensor([True, True, False])})
    item = NoteCalibrationd()({"pred": MetaTensor(probabilities), "label": some})
    assert item["calibration"] == {"ece": [], "nll": []}
    pred = (label == 1).long() + 2 * (label == 0)  # the first structure as it is, and the second where it is not
    report = CertaintyReport(LABELS, tmp_path)
    assert report._dice(pred[None], some) == 1
    assert report._dice(pred[None], label[None]) == pytest.approx(0.5)
    assert report._dice(torch.ones_like(partly)[None], partly[None]) < report._dice(pred[None], some)
    ignored = partly.clone()
    wrong = torch.cat([pred, torch.ones_like(pred)])[None]
    assert report._dice(wrong, MetaTensor(ignored[None], meta=some.meta)) == 1


def test_a_temperature_of_one_changes_nothing_and_a_higher_one_is_less_sure():
    p = torch.tensor([0.9, 0.1])
    assert torch.allclose(temper(p, 1.0), p)
    assert torch.allclose(temper(p, 2.0), torch.tensor([0.75, 0.25]))  # square roots: 3 to 1


def test_agreement_is_the_mean_dice_of_structures_that_either_has():
    a, b = torch.zeros(4, 4, 4).long(), torch.zeros(4, 4, 4).long()
    assert agreement(a, b, 3) == 0
    a[0], b[0] = 1, 1
    assert agreement(a, b, 3) == 1
    a[3] = 2
    assert agreement(a, b, 3) == pytest.approx(0.5)  # of the second only one has something


def case(number, dice, agreed, best=1.0):
    likelihood = [(np.log(t / best)) ** 2 for t in TEMPERATURES]
    return {
        "image": f"{number}",
        "dice": dice,
        "agreement": agreed,
        "entropy": 0.1,
        "nll": likelihood,
        "ece": [0.1] * 21,
    }


def test_each_scan_is_judged_by_the_others():
    cases = [case(n, 0.5 + 0.05 * n, 0.6 + 0.05 * n, best=2.0 if n else 4.0) for n in range(6)]
    for one in cases:
        one["ece"] = [abs(t - 2.0) / 10 for t in TEMPERATURES]
    found = certainty_of(cases)
    assert found["calibration"]["ece"] == pytest.approx(0.1)
    assert found["calibration"]["ece_tempered"] < 0.05
    line = found["predicted_dice"]
    assert line["slope"] == pytest.approx(1) and line["offset"] == pytest.approx(-0.1)
    assert line["error"] < 1e-9 and line["correlation"] == pytest.approx(1)
    assert line["risk_coverage"] == pytest.approx(line["best"])
    few = certainty_of(cases[:3])
    assert few["predicted_dice"] is None and few["calibration"] is not None
    assert certainty_of([case(n, np.nan, 0.0) for n in range(5)])["predicted_dice"] is None
    alike = certainty_of([case(n, 0.1 * n, 0.7) for n in range(5)])["predicted_dice"]
    assert alike["slope"] == 0 and alike["offset"] == pytest.approx(0.2) and alike["correlation"] is None


def items(count=5):
    """Scans of which the two networks agree the less, the worse the ensemble is."""
    label = torch.zeros(1, 8, 8, 8)
    label[0, 2:6, 2:6, 2:6], label[0, 6:] = 1, 2
    for number in range(count):
        a = torch.nn.functional.one_hot(label[0].long(), 3).movedim(-1, 0).float() * 4
        b = a.roll(number, 2)
        image = MetaTensor(
            torch.rand(1, 8, 8, 8), affine=torch.eye(4) * 2, meta={"filename_or_obj": f"/s/{number}.nii.gz"}
        )
        item = {
            "image": image,
            "label": MetaTensor(label, affine=torch.eye(4) * 2),
            "pred_a": a,
            "pred_b": b,
            "pred": b,
        }
        item = NoteCertaintyd()(item)
        item["pred"] = MetaTensor(b.softmax(0), affine=image.affine)
        item = NoteCalibrationd()(item)
        yield item | {"pred": MetaTensor(item["pred"].argmax(0, keepdim=True), affine=image.affine)}


def test_from_an_evaluation_to_an_order_of_review(tmp_path):
    run = Run(tmp_path)
    engine = Engine(lambda engine, batch: [batch])
    CertaintyReport(LABELS, run.folder).attach(engine)
    engine.run(list(items()))
    found = json.loads(run.certainty_file.read_text())
    assert found["scans"] == 5 and found["predicted_dice"]["correlation"] == pytest.approx(1)
    assert learnt_certainty(run)["predicted_dice"] == found["predicted_dice"]

    out = tmp_path / "out"
    engine = Engine(lambda engine, batch: [batch])
    ReviewCsv(LABELS, out, run.model).attach(engine)
    engine.run(list(items(3)))
    rows = list(csv.DictReader((out / "review.csv").open()))
    assert [row["scan"] for row in rows] == ["2", "1", "0"]
    assert float(rows[0]["predicted_dice"]) < float(rows[-1]["predicted_dice"]) and float(rows[-1]["agreement"]) == 1
    assert float(rows[0]["right ml"]) == pytest.approx(2 * 8 * 8 * 8 / 1000)  # voxels of 2 mm
    engine.run(list(items(5))[3:])
    assert [row["scan"] for row in csv.DictReader((out / "review.csv").open())] == ["4", "3", "2", "1", "0"]


def test_without_scored_scans_nothing_is_promised_and_damage_is_named(tmp_path):
    engine = Engine(lambda engine, batch: [batch])
    ReviewCsv(LABELS, tmp_path / "out", tmp_path / "model.pt").attach(engine)
    engine.run(list(items(1)))
    assert next(csv.DictReader((tmp_path / "out" / "review.csv").open()))["predicted_dice"] == ""
    (tmp_path / "out" / "review.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not a list of this program"):
        engine.run(list(items(1)))
    Run(tmp_path).certainty_file.write_text("{}")
    with pytest.raises(DataError, match="certainty.json: damaged"):
        learnt_certainty(Run(tmp_path))
