# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from scripts.networks import DualEnsemble, VNet, WithFeatures
from scripts.reports import ReviewOrder
from scripts.reports.review import order_of_review


def test_the_least_sure_comes_first_and_its_copies_last():
    scores = [[0.9, 0.89, 0.88, 0.5, 0.4], [0.9, 0.89, 0.88, 0.5, 0.4]]
    alike, other, far = np.zeros(3), np.ones(3), np.array([3.0, -3.0, 3.0])
    assert order_of_review(scores, [alike, alike, alike, other, far])[0] == 0
    assert set(order_of_review(scores, [alike, alike, alike, other, far])[1:3]) == {3, 4}
    assert order_of_review(scores, [alike] * 5) == [0, 1, 2, 3, 4]  # all alike: by uncertainty
    assert order_of_review([[], []], []) == []


def logits(classes):
    return torch.nn.functional.one_hot(classes, 2).permute(3, 0, 1, 2).float() * 20


def test_scans_are_scored_by_disagreement_and_entropy(tmp_path):
    left, right = torch.zeros(4, 4, 4).long(), torch.zeros(4, 4, 4).long()
    left[:2], right[1:3] = 1, 1  # they share half of each
    items = []
    for name, a, b, both in (("agree", left, left, logits(left)), ("differ", left, right, logits(left) * 0)):
        image = MetaTensor(torch.rand(1, 4, 4, 4), meta={"filename_or_obj": f"/data/{name}.nii.gz"})
        items.append({"image": image, "pred_a": logits(a), "pred_b": logits(b), "pred": both})
    engine = Engine(lambda engine, batch: batch)
    ReviewOrder({"0": "background", "1": "heart"}, tmp_path).attach(engine)
    engine.run([[item] for item in items])
    first, second = json.loads((tmp_path / "review.json").read_text())
    assert first["image"] == "/data/differ.nii.gz"
    assert first["disagreement"] == pytest.approx(0.5) and first["entropy"] == pytest.approx(1)
    assert second["disagreement"] == 0 and second["entropy"] < 1e-6


def test_two_networks_that_find_nothing_do_not_count_as_agreement(tmp_path):
    nothing = torch.zeros(4, 4, 4).long()
    image = MetaTensor(torch.rand(1, 4, 4, 4), meta={"filename_or_obj": "/data/a.nii.gz"})
    engine = Engine(lambda engine, batch: batch)
    ReviewOrder({"0": "background", "1": "heart"}, tmp_path).attach(engine)
    engine.run([[{"image": image, **dict.fromkeys(("pred", "pred_a", "pred_b"), logits(nothing))}]])
    assert json.loads((tmp_path / "review.json").read_text())[0]["disagreement"] == 1


def test_scans_that_the_networks_see_alike_do_not_come_one_after_the_other(tmp_path):
    torch.manual_seed(0)
    network = DualEnsemble(
        VNet(base_channels=2, norm="group"),
        WithFeatures(torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3, padding=1)), layer="0"),
    ).eval()
    alike, other = torch.zeros(1, 16, 16, 16), torch.zeros(1, 16, 16, 16)
    alike[:, :8], other[:, :, ::4] = 1, 3

    def score(engine, batch):
        name, image, entropy = batch
        with torch.no_grad():
            for window in image.split(16, 1):  # as a sliding window does, here of one part
                a, b, _ = network.members(window[None])
        assert a.shape == b.shape
        pred = torch.stack([torch.zeros(4, 4, 4), torch.full((4, 4, 4), -entropy)])
        image = MetaTensor(image, meta={"filename_or_obj": f"/data/{name}.nii.gz"})
        sure = logits(torch.ones(4, 4, 4).long())
        return [{"image": image, "pred": pred, "pred_a": sure, "pred_b": sure}]

    engine = Engine(score)
    ReviewOrder({"0": "background", "1": "heart"}, tmp_path, network).attach(engine)
    engine.run([("first", alike, 0.0), ("its_copy", alike.clone(), 0.5), ("other", other, 2.0)])
    names = [scan["image"] for scan in json.loads((tmp_path / "review.json").read_text())]
    assert names == ["/data/first.nii.gz", "/data/other.nii.gz", "/data/its_copy.nii.gz"]
