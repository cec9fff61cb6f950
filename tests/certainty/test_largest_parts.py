# SPDX-License-Identifier: Apache-2.0
"""Of which structures inference keeps the largest part is learnt from labels, and only where it does no harm."""

import logging

import numpy as np
import pytest
import torch
from monai.transforms import AsDiscreted, Compose

from scripts.certainty import is_one_piece, learn_largest_parts
from scripts.runs import Run

LABELS = {"0": "background", "1": "liver", "2": "kidneys", "3": "vessel"}
LINE = 12


def classes_at(**places):
    """A label [1, 12, 1, 1]: class 1 at ``one=[...]``, and so on."""
    line = torch.zeros(1, LINE, 1, 1)
    for number, name in enumerate(("one", "two", "three"), 1):
        line[0, places.get(name, [])] = number
    return line


def one_hot(line):
    return torch.nn.functional.one_hot(line.long()[:, 0], 4).movedim(-1, 1).float()


def learn(tmp_path, validation, training=()):
    """Pairs (label, what is predicted): the image holds the prediction, which the network shows."""
    run = Run(tmp_path)
    data = {
        name: [{"image": predicted, "label": label} for label, predicted in pairs]
        for name, pairs in (("validation", validation), ("training", training))
    }
    learn_largest_parts(
        run.folder,
        data,
        torch.nn.Identity(),
        lambda image, network: network(one_hot(image)),
        dict,
        Compose([AsDiscreted("pred", argmax=True, to_onehot=4), AsDiscreted("label", to_onehot=4)]),
        LABELS,
        "cpu",
    )
    return run.largest_parts()


def test_what_is_one_piece_in_all_labels_and_gains_is_kept(tmp_path, caplog):
    label = classes_at(one=[1, 2, 3], two=[5, 9])
    predicted = classes_at(one=[1, 2, 3, 7], two=[5, 9, 11])
    with caplog.at_level(logging.INFO):
        assert learn(tmp_path, [(label, predicted)]) == [1]
    assert "keeps the largest part of liver: one piece in all labels" in caplog.text and "none" in caplog.text


def test_what_would_lose_is_not_kept(tmp_path):
    broken = (classes_at(three=[1, 2, 3, 4, 5, 6]), classes_at(three=[1, 2, 4, 5, 6]))
    assert learn(tmp_path, [broken]) == []


def test_scans_for_validation_are_asked_before_those_of_the_training(tmp_path):
    harmless = (classes_at(one=[1, 2]), classes_at(one=[1, 2]))
    harmed = (classes_at(one=[1, 2, 3, 4]), classes_at(one=[1, 2, 4]))
    assert learn(tmp_path, [harmless], [harmed]) == [1]
    assert learn(tmp_path, [harmed], [harmless]) == []
    assert learn(tmp_path, [], [harmless]) == [1]


def test_one_label_of_several_parts_is_enough_to_keep_all(tmp_path):
    one = (classes_at(two=[1, 2]), classes_at(two=[1, 2, 9]))
    two = (classes_at(two=[1, 2, 6, 7]), classes_at(two=[1, 2, 6, 7]))
    assert learn(tmp_path, [one]) == [2]
    assert learn(tmp_path, [one, two]) == []


def test_classes_and_scans_that_are_not_there_say_nothing(tmp_path):
    assert learn(tmp_path, [(classes_at(), classes_at(one=[3]))]) == []
    assert learn(tmp_path, []) == []


def test_a_scan_that_would_not_fit_the_memory_is_not_looked_at(tmp_path, monkeypatch):
    pair = (classes_at(one=[1, 2]), classes_at(one=[1, 2, 9]))
    monkeypatch.setattr("scripts.certainty.largest_parts.available_memory", lambda: LINE * 4 * 16 / 0.6 + 1)
    assert learn(tmp_path, [pair]) == [1]
    monkeypatch.setattr("scripts.certainty.largest_parts.available_memory", lambda: LINE * 4 * 16 / 0.6 - 1)
    assert learn(tmp_path, [pair]) == []


@pytest.mark.parametrize(("stray", "expected"), [(1, True), (3, False)])
def test_a_stray_voxel_of_a_label_does_not_count(stray, expected):
    structure = np.zeros((20, 10, 2), bool)
    structure[:10] = True  # 200 voxels
    structure[12 : 12 + 2 * stray : 2, 0, 0] = True
    assert is_one_piece(structure) is expected
