# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.data import DataError, load_datalist, write_datalist

LABELS = {"0": "background", "1": "heart"}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in "abcdefgh":
        (tmp_path / f"{name}.nii.gz").touch()
        (tmp_path / f"{name}_label.nii.gz").touch()
    return tmp_path


def entry(name: str) -> dict[str, str]:
    return {"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"}


def write(folder: Path, content, name: str = "datalist.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def sound(**sections):
    return {"labels": LABELS, "training": [entry("a"), entry("b"), entry("c")], **sections}


def test_paths_become_absolute_and_missing_sections_empty(folder):
    found = load_datalist(write(folder, sound(name="hearts", unlabeled=[{"image": "d.nii.gz"}])))
    assert found["labels"] == {0: "background", 1: "heart"}
    assert found["training"][0] == {"image": str(folder / "a.nii.gz"), "label": str(folder / "a_label.nii.gz")}
    assert found["unlabeled"] == [{"image": str(folder / "d.nii.gz")}]
    assert found["validation"] == found["test"] == [] and found["ignore"] is None and found["values"] is None
    sections = {"training", "unlabeled", "validation", "test"}
    assert found["regions"] == {} and found["spatial_dims"] == 3
    assert set(found) == {"labels", "modality", "values", "ignore", "regions", "spatial_dims", *sections}


def test_relative_to_the_datalist_not_to_the_working_directory(folder, monkeypatch):
    (folder / "lists").mkdir()
    monkeypatch.chdir(folder / "lists")
    content = {"labels": LABELS, "training": [{"image": "../a.nii.gz", "label": "../a_label.nii.gz"}]}
    write(folder / "lists", content)
    assert load_datalist("datalist.json")["training"][0]["image"] == str(folder / "a.nii.gz")


def test_label_of_an_unlabeled_case_is_dropped_unseen(folder):
    hidden = {"image": "d.nii.gz", "label": "nowhere.nii.gz"}
    assert load_datalist(write(folder, sound(unlabeled=[hidden])))["unlabeled"] == [{"image": str(folder / "d.nii.gz")}]


def test_labels_are_ordered_by_value(folder):
    labels = {"2": "tail", "0": "background", "1": "head"}
    assert list(load_datalist(write(folder, sound(labels=labels)))["labels"]) == [0, 1, 2]


def test_one_file_per_channel(folder):
    case = {"image": ["a.nii.gz", "b.nii.gz"], "label": "a_label.nii.gz"}
    found = load_datalist(write(folder, {"labels": LABELS, "training": [case]}))
    assert found["training"][0]["image"] == [str(folder / "a.nii.gz"), str(folder / "b.nii.gz")]


def test_validation_comes_from_the_end_of_training(folder):
    found = load_datalist(write(folder, sound()), validation=1)
    assert [Path(case["image"]).name for case in found["training"]] == ["a.nii.gz", "b.nii.gz"]
    assert [Path(case["image"]).name for case in found["validation"]] == ["c.nii.gz"]


def test_a_validation_section_of_its_own_stands(folder):
    found = load_datalist(write(folder, sound(validation=[entry("d")])), validation=2)
    assert len(found["training"]) == 3 and len(found["validation"]) == 1


@pytest.mark.parametrize("count", [3, 7, -1])
def test_validation_never_empties_training(folder, count):
    with pytest.raises(DataError, match="at least one must remain for training"):
        load_datalist(write(folder, sound()), validation=count)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labels": {"0": "background", "1": "x"},\n "training": [1, ],}', r"not JSON: .* at line 2, column 1\d"),
        ("[]", "a JSON list where an object"),
        ({"training": [entry("a")]}, '"labels" is missing'),
        ({"labels": ["background", "heart"], "training": [entry("a")]}, '"labels" is missing or not an object'),
        (sound(labels={"0": "background", "one": "heart"}), "a key that is not a whole number"),
        (sound(labels={"1": "heart", "2": "lung"}), r"values \[1, 2\]; they must start at 0"),
        (sound(labels={"0": "background", "2": "heart"}), r"values \[0, 2\].*be consecutive"),
        (sound(labels={"0": "background"}), "at least 0 and 1"),
        (sound(labels={"0": "heart", "1": "heart"}), "each must be a text of its own"),
        ({"labels": LABELS}, '"training" is empty or missing'),
        ({"labels": LABELS, "training": []}, '"training" is empty or missing'),
        (sound(training={"a": 1}), '"training" is a dict. It must be a list'),
        (sound(unlabelled=[{"image": "d.nii.gz"}]), 'unknown section "unlabelled", did you mean "unlabeled"?'),
        (sound(unlabelled=["d.nii.gz"]), 'unknown section "unlabelled"'),
        (sound(holdout=[{"image": "d.nii.gz"}]), 'unknown section "holdout". The sections are'),
        (sound(test=["d.nii.gz"]), "case 1 of \"test\" is 'd.nii.gz'. Write"),
        (sound(test=[entry("d"), {"label": "e_label.nii.gz"}]), 'case 2 of "test" has no "image"'),
        (sound(unlabeled=[{"image": []}]), 'case 1 of "unlabeled" has no "image"'),
        (sound(training=[{"image": "a.nii.gz"}]), '"training" .a.nii.gz. has no "label".*move the case to "unlabeled"'),
        (sound(validation=[{"image": "d.nii.gz"}]), '"validation" .d.nii.gz. has no "label"'),
        (sound(test=[{"image": "d.nii.gz", "label": "d.nii.gz"}]), "names the image as its label"),
        (sound(test=[{"image": "zz.nii.gz", "label": "d_label.nii.gz"}]), "zz.nii.gz: no such image file"),
        (sound(test=[{"image": "d.nii.gz", "label": "zz.nii.gz"}]), "zz.nii.gz: no such label file"),
        (sound(test=[entry("b")]), 'b.nii.gz: in both "training" and "test"'),
        (sound(unlabeled=[{"image": "./b.nii.gz"}]), 'b.nii.gz: in both "training" and "unlabeled"'),
        (sound(training=[entry("a"), entry("a")]), 'a.nii.gz: twice in "training"'),
        (sound(test=[{"image": "d.nii.gz", "label": "a_label.nii.gz"}]), "a_label.nii.gz: the label of two images"),
    ],
)
def test_what_is_wrong_is_named(folder, content, message):
    with pytest.raises(DataError, match=message) as caught:
        load_datalist(write(folder, content))
    assert str(folder) in str(caught.value)


def test_a_link_to_the_same_scan_is_a_leak_too(folder):
    (folder / "other_name.nii.gz").symlink_to(folder / "a.nii.gz")
    with pytest.raises(DataError, match='in both "training" and "unlabeled"'):
        load_datalist(write(folder, sound(unlabeled=[{"image": "other_name.nii.gz"}])))


def test_missing_folder_file_and_folder_for_a_file(folder):
    with pytest.raises(DataError, match="no such folder .there is only"):
        load_datalist(folder / "typo" / "deep" / "datalist.json")
    with pytest.raises(DataError, match="no such file.*dataset_dir"):
        load_datalist(folder / "list.json")
    with pytest.raises(DataError, match="a folder, not a datalist"):
        load_datalist(folder)


def test_not_text(folder):
    (folder / "list.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(DataError, match="not a UTF-8 text file"):
        load_datalist(folder / "list.json")


def test_a_byte_order_mark_is_accepted(folder):
    path = folder / "list.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(sound()).encode())
    assert len(load_datalist(path)["training"]) == 3


def test_all_problems_are_counted_and_ten_shown(folder):
    cases = [{"image": f"x{number}.nii.gz"} for number in range(14)]
    with pytest.raises(DataError) as caught:
        load_datalist(write(folder, sound(unlabeled=cases)))
    text = str(caught.value)
    assert text.startswith("14 problems:") and text.endswith("... and 4 more")
    assert "x9.nii.gz" in text and "x10.nii.gz" not in text


def test_error_crosses_processes(folder):
    import pickle

    error = pickle.loads(pickle.dumps(DataError(["a", "b"])))
    assert error.problems == ["a", "b"] and "2 problems" in str(error)


def test_the_real_datalists(shared_data):
    counts = {
        "left_atrium/datalist_8.json": (8, 56, 16),
        "left_atrium/datalist_all.json": (64, 0, 16),
        "hippocampus/datalist_8.json": (8, 142, 50),
    }
    for name, expected in counts.items():
        found = load_datalist(shared_data / name)
        assert (len(found["training"]), len(found["unlabeled"]), len(found["test"])) == expected


def test_modality_is_carried_or_refused(folder):
    assert load_datalist(write(folder, sound()))["modality"] is None
    assert load_datalist(write(folder, sound(modality=["CT", "PET"])))["modality"] == ["CT", "PET"]
    for wrong in ("CT", [], {"0": "CT"}, [1]):
        with pytest.raises(DataError, match='datalist.json: "modality" is .* Write one name for each channel'):
            load_datalist(write(folder, sound(modality=wrong)))


CODE = ["$__import__('pathlib').Path('marker').touch()", "@device", "%labels", " $print(1)"]


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("key", ["labels", "modality"])
def test_a_name_that_a_config_would_evaluate_is_refused(folder, code, key):
    content = sound(**{key: {**LABELS, "2": code} if key == "labels" else [code]})
    with pytest.raises(DataError, match="is code in a MONAI config: rename it"):
        load_datalist(write(folder, content))
    with pytest.raises(DataError, match="is code in a MONAI config: rename it"):
        write_datalist({"labels": {}, **content}, folder / "new.json")
    assert not (folder / "new.json").exists()


def test_marks_inside_a_name_are_text(folder):
    labels = {"0": "background", "1": "50% of the wall, a@b, costs $5"}
    assert load_datalist(write(folder, sound(labels=labels)))["labels"][1] == labels["1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"labels": {"0": "background", "1": "heart"}, "x": ' + '{"a":' * 20_000 + "1" + "}" * 20_001, "nested|deep"),
        ('{"labels": {"0": "background", "1": "he\\ud800art"}, "training": []}', "half a character"),
        ('{"labels": {"0": "background", "1": "heart"}, "training": [{"image": "\\udce9.nii"}]}', "half a character"),
        ('{"labels": ' + "9" * 5000 + "}", "not a datalist"),
    ],
    ids=["deep lists", "deep objects", "class", "file", "number"],
)
def test_json_that_breaks_programs_is_one_sentence(folder, text, message):
    path = folder / "hostile.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_datalist(path)


LINES = """{"labels": {"0": "background", "1": "heart"}, "name": "mine"}
{"section": "training", "image": "a.nii.gz", "label": "a_label.nii.gz"}

{"section": "unlabeled", "image": "b\u2028.nii.gz"}
{"section": "training", "image": "c.nii.gz", "label": "c_label.nii.gz"}
"""


def test_json_lines_are_the_same_datalist(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "b\u2028.nii.gz").touch()  # an end of a line to str.splitlines, not to JSON lines
    sections = {"training": [entry("a"), entry("c")], "unlabeled": [{"image": "b\u2028.nii.gz"}]}
    content = {"labels": LABELS, "name": "mine", **sections}
    expected = load_datalist(write(folder, content))
    assert load_datalist(write(folder, LINES, "lines.jsonl")) == expected
    written = Path(write_datalist(content, folder / "written.jsonl"))
    assert load_datalist(written) == expected
    assert [json.loads(line).get("section") for line in written.read_text().split("\n")[:-1]] == [
        *(None, "training", "training", "unlabeled")
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"a.nii.gz", ', '"a.nii.gz" ', "at line 2, column "),
        ('"section": "unlabeled"', '"section": "unlabelled"', "lines.jsonl: line 4 is no case"),
        ('{"section": "unlabeled", "image": "b\u2028.nii.gz"}', "[]", "line 4 is no case"),
        ('{"labels": {"0": "background", "1": "heart"}, "name": "mine"}', "[1]", "a JSON list"),
        (LINES, "", "a JSON NoneType"),
        ('"name": "mine"', '"training": 1', "first line has .training"),
    ],
)
def test_lines_that_are_no_datalist_are_named(folder, old, new, message):
    with pytest.raises(DataError, match=message) as raised:
        load_datalist(write(folder, LINES.replace(old, new), "lines.jsonl"))
    assert "Write it anew" not in str(raised.value)
