# SPDX-License-Identifier: Apache-2.0
"""Patients stay together, names that look like sessions are told, and rare classes get into every section."""

import re

import nibabel
import numpy as np
import pytest

from scripts.data import DataError, split_cases
from scripts.data.datalist.layouts.case import Case
from scripts.data.datalist.patients import by_patient, warn_of_sessions
from scripts.data.datalist.stratify import reserve
from scripts.data.incomplete_labels import take_ignored


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["p1_t0", "p1_t1", "p2_t0"], ["p1", "p1", "p2"]),
        (
            ["patient001_frame01", "patient001_frame12", "patient002_frame01"],
            ["patient001", "patient001", "patient002"],
        ),
        (["A-7_pre", "A-7_post", "B-9_pre"], ["A-7", "A-7", "B-9"]),
        (["x3_20190101", "x3_20200305", "x4_20190101"], ["x3", "x3", "x4"]),
        (["case01_1", "case01_2", "case02_1"], ["case01", "case01", "case02"]),
    ],
)
def test_sessions_of_a_patient_are_told_with_a_pattern_that_works(names, patients, caplog):
    cases = [Case(name, name) for name in names]
    group = warn_of_sessions(by_patient(cases, None))
    assert f"{names[0]} and {names[1]} look like scans of one patient, {patients[0]}" in caplog.text
    assert [re.search(group, name)[1] for name in names] == patients
    assert warn_of_sessions(by_patient(cases, group)) is None


@pytest.mark.parametrize(
    "names",
    [
        ["hippocampus_001", "hippocampus_002", "hippocampus_003"],
        ["case01", "case02"],
        ["BraTS20_Training_001", "BraTS20_Training_002"],
        ["p1_t0", "p2_t0", "p3_t0"],
        ["alpha", "beta"],
    ],
)
def test_names_of_different_patients_raise_no_warning(names, caplog):
    assert warn_of_sessions(by_patient([Case(name, name) for name in names], None)) is None
    assert caplog.text == ""


def test_reserve_serves_the_rarest_class_first_and_never_beyond_the_room():
    classes = {"a": {1}, "b": {1, 2}, "c": {1, 3}, "d": {2}, "e": {3}, "f": {1}}
    found = reserve("abcdef", classes, dict.fromkeys("abcdef", 1), {"training": 3, "test": 3})
    for names in found.values():
        assert len(names) <= 3 and set().union(*(classes[name] for name in names)) == {1, 2, 3}
    assert not set(found["training"]) & set(found["test"])
    assert reserve("ab", {"a": {1}, "b": {1}}, {"a": 3, "b": 1}, {"test": 1}) == {"test": ["b"]}


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_reaches_training_validation_and_test(tmp_path, seed, caplog):
    for number in range(20):
        voxels = np.zeros((4, 4, 4), np.uint8)
        voxels[0], voxels[1, 0, 0] = 1, 2 if number < 3 else 1
        if number == 7:
            voxels[2] = 3
        for folder, values in (("images", np.random.default_rng(number).normal(size=(4, 4, 4))), ("labels", voxels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / folder / f"c{number:02d}.nii.gz")
    wanted = {"labeled": 4, "validation": 2, "test": 4}
    datalist = split_cases(tmp_path, seed=seed, progress=False, **wanted)
    assert [len(datalist[key]) for key in ("training", "validation", "test", "unlabeled")] == [4, 2, 4, 10]
    rare = {f"c{number:02d}.nii.gz" for number in range(3)}
    for section in ("training", "validation", "test"):
        assert rare & {case["label"].split("/")[-1] for case in datalist[section]}, section
    assert "label value 3 is in no case of 'validation': too few patients have it" in caplog.text
    plain = split_cases(tmp_path, seed=seed, progress=False, stratify=False, **wanted)
    assert plain != datalist or seed  # at least for one seed chance alone does not do it


def test_an_ignored_value_is_no_class_by_another_name(tmp_path):
    labels = {"0": "background", "1": "x", "2": "y"}
    for ignore, values, refused in [(255, [0, 1, 4], False), (2, [0, 1, 4], True), (4, [0, 1, 4], True)]:
        content = {"labels": dict(labels), "values": values, "ignore": ignore}
        if refused:
            with pytest.raises(DataError, match=f"the ignored value {ignore} is"):
                take_ignored(tmp_path, content)
        else:
            assert take_ignored(tmp_path, content) == ignore
