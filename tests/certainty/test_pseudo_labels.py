# SPDX-License-Identifier: Apache-2.0
"""Of what the networks label, only certain voxels and scans on which both agree are learnt."""

import json
import math

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from scripts.certainty import SETTINGS, MarkUncertaind, PseudoLabelDatalist
from scripts.data import ignored_value, load_datalist, repeat_labelled
from scripts.errors import DataError


@pytest.fixture
def datalist(tmp_path):
    """Two labelled scans and three unlabelled ones; label files have the values 0 and 255."""
    content = {"labels": {"0": "background", "1": "heart"}, "values": [0, 255], "training": [], "unlabeled": []}
    for number in range(5):
        for role in ("images", "labels"):
            (tmp_path / role).mkdir(exist_ok=True)
            voxels = np.full((2, 2, 2), 255, np.uint8)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / role / f"s{number}.nii.gz")
        case = {"image": f"images/s{number}.nii.gz", "label": f"labels/s{number}.nii.gz"}
        content["training" if number < 2 else "unlabeled"].append(case)
    (tmp_path / "list.json").write_text(json.dumps(content))
    return load_datalist(tmp_path / "list.json")


def test_uncertain_voxels_become_a_class_of_their_own():
    sure = torch.tensor([0.5, 0.9, 0.1, 0.98]).reshape(1, 4, 1, 1)
    entropy = [-(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for p in sure.flatten().tolist()]
    pred = MetaTensor(torch.cat([sure, 1 - sure]), affine=2 * torch.eye(4))
    found = MarkUncertaind("pred", max_entropy=0.47)({"pred": pred})["pred"]
    assert 0.46 < entropy[1] < 0.47 and entropy[2] == pytest.approx(entropy[1])
    assert found.argmax(0).flatten().tolist() == [2, 0, 1, 0]
    assert torch.equal(found.affine, pred.affine)
    assert MarkUncertaind("pred", max_entropy=0.4)({"pred": pred})["pred"].argmax(0).flatten().tolist() == [2, 2, 2, 0]


def label_all(datalist, folder, agreements, keep):
    folder.mkdir()
    for number in agreements:
        voxels = np.full((2, 2, 2), ignored_value(datalist), np.uint8)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"s{number}_seg.nii.gz")

    def step(engine, number):
        image = MetaTensor(torch.zeros(1), meta={"filename_or_obj": f"/x/s{number}.nii.gz"})
        return [{"image": image, "agreement": agreements[number]}]

    engine = Engine(step)
    PseudoLabelDatalist(datalist, folder, "list.json", keep, 0.5).attach(engine)
    engine.run(list(agreements))


def names(cases, role="image"):
    return [case[role].rsplit("/", 1)[1] for case in cases]


def test_the_scans_on_which_the_networks_agree_are_learnt_and_the_labels_repeated(datalist, tmp_path):
    assert ignored_value(datalist) == 254 and "pseudo" not in datalist["training"][0]
    label_all(datalist, tmp_path / "made", {2: 0.7, 3: 0.2, 4: 0.9}, keep=0.6)
    made = load_datalist(tmp_path / "made" / "list.json")
    assert made["ignore"] == 254 and made["values"] == [0, 255]
    assert names(made["training"]) == ["s0.nii.gz", "s1.nii.gz", "s2.nii.gz", "s4.nii.gz"]
    assert names(made["training"], "label")[2:] == ["s2_seg.nii.gz", "s4_seg.nii.gz"]
    assert [case["pseudo"] for case in made["training"]] == [False, False, True, True]
    assert names(made["unlabeled"]) == ["s3.nii.gz"]
    assert json.loads((tmp_path / "made" / "list.json").read_text())[SETTINGS] == {"keep": 0.6, "max_entropy": 0.5}

    made["training"] += [{**made["training"][2], "image": f"/x/t{number}.nii.gz"} for number in range(4)]
    shown = names(repeat_labelled(made))
    assert shown.count("s0.nii.gz") == shown.count("s1.nii.gz") == 3 and len(shown) == 12
    assert all("pseudo" not in case for case in repeat_labelled(made))
    assert names(repeat_labelled(datalist)) == ["s0.nii.gz", "s1.nii.gz"]


def test_scans_in_which_nothing_is_found_are_not_learnt(datalist, tmp_path):
    label_all(datalist, tmp_path / "one", {2: 0.0, 3: 0.4, 4: 0.0}, keep=1)
    assert names(load_datalist(tmp_path / "one" / "list.json")["training"])[2:] == ["s3.nii.gz"]
    with pytest.raises(DataError, match="find nothing in any unlabelled scan"):
        label_all(datalist, tmp_path / "none", {2: 0.0, 3: 0.0}, keep=1)
    assert not (tmp_path / "none" / "list.json").exists()


@pytest.mark.parametrize("value", [0, 1.5, -0.1, "half", True])
def test_what_is_no_fraction_is_named(datalist, tmp_path, value):
    with pytest.raises(DataError, match="keep"):
        PseudoLabelDatalist(datalist, tmp_path, "list.json", value, 0.5)
    with pytest.raises(DataError, match="max_entropy"):
        MarkUncertaind("pred", value)


def test_without_unlabelled_scans_there_is_nothing_to_learn_from(datalist, tmp_path):
    with pytest.raises(DataError, match="no unlabelled scan"):
        PseudoLabelDatalist({**datalist, "unlabeled": []}, tmp_path, "list.json", 0.5, 0.5)
