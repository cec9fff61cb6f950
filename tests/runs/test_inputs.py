# SPDX-License-Identifier: Apache-2.0
"""A run resumed with other scans, another datalist, other code or more processes says so."""

import json
import shutil

import pytest

from scripts.data import load_datalist, phantom_dataset
from scripts.runs import Run, compare_inputs, inputs


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    phantom_dataset(folder, size=(16, 16, 16), labeled=2, unlabeled=2, validation=0, test=0, progress=False)
    return folder


@pytest.fixture
def begun(tmp_path, phantom):
    """A data set, and a run of it that has a checkpoint."""
    shutil.copytree(phantom, tmp_path / "data")
    run = Run(tmp_path / "run")
    assert compare(tmp_path) == []
    run.state.touch()
    return tmp_path


def compare(folder):
    return compare_inputs(folder / "run", load_datalist(folder / "data" / "datalist.json"))


def test_the_same_inputs_are_no_change_also_from_another_place(begun):
    assert compare(begun) == []
    (begun / "data").rename(begun / "moved")
    assert compare_inputs(begun / "run", load_datalist(begun / "moved" / "datalist.json")) == []


def test_another_scan_is_named_and_stays_in_the_record(begun, caplog):
    first = load_datalist(begun / "data" / "datalist.json")["training"][0]["image"]
    with open(first, "ab") as file:
        file.write(b"\0")
    (change,) = compare(begun)
    assert change.startswith("1 scans are not those of the start, ") and change in caplog.text
    assert compare(begun) == [change]
    assert json.loads((begun / "run" / "inputs.json").read_text())["changes"] == [change]


def test_another_datalist_is_a_change(begun):
    path = begun / "data" / "datalist.json"
    content = json.loads(path.read_text())
    content["unlabeled"].pop()
    path.write_text(json.dumps(content))
    assert compare(begun) == ["its datalist lists other cases or classes than at the start."]


def test_other_code_versions_and_processes_are_changes(begun, monkeypatch):
    record = begun / "run" / "inputs.json"
    content = json.loads(record.read_text())
    content["code"] = "0"
    content["versions"]["torch"] = "1.0"
    record.write_text(json.dumps(content))
    monkeypatch.setattr(inputs, "world_size", lambda: 2)
    code, torch, processes = compare(begun)
    assert "code" in code and "torch 1.0" in torch
    assert processes == "it began with 1 processes, here are 2."


def test_a_damaged_record_is_a_warning_and_written_again(begun, caplog):
    (begun / "run" / "inputs.json").write_text("")
    assert compare(begun) == []
    assert "cannot be compared" in caplog.text
    assert compare(begun) == [] and json.loads((begun / "run" / "inputs.json").read_text())["scans"]
