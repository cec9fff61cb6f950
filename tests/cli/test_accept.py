# SPDX-License-Identifier: Apache-2.0
"""Reviewed segmentations become labels of a new datalist; what is there stays as it is."""

import json

import nibabel
import numpy as np
import pytest

from scripts.cli import main
from scripts.data import load_datalist


def save(array, path, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 2, 1]) if affine is None else affine), path)


@pytest.fixture
def folder(tmp_path):
    """One labelled scan, three unlabelled ones, of which two have been segmented."""
    rng = np.random.default_rng(0)
    for number in range(4):
        save(rng.random((6, 6, 6), dtype=np.float32), tmp_path / "scans" / f"s{number}_0000.nii.gz")
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:4] = 1
    save(label, tmp_path / "scans" / "labels" / "s0.nii.gz")
    for number in (1, 2):
        save(np.roll(label, number, 0), tmp_path / "done" / f"s{number}_seg.nii.gz")
    save(rng.random((6, 6, 6), dtype=np.float32), tmp_path / "done" / "s1_entropy.nii.gz")
    content = {
        "name": "mine",
        "labels": {"0": "background", "1": "heart"},
        "training": [{"image": "s0_0000.nii.gz", "label": "labels/s0.nii.gz"}],
        "unlabeled": [{"image": f"s{number}_0000.nii.gz", "note": number} for number in (1, 2, 3)],
    }
    (tmp_path / "scans" / "list.json").write_text(json.dumps(content))
    return tmp_path


def accept(folder, *words):
    with pytest.raises(SystemExit) as ended:
        main(["accept", str(folder / "done"), str(folder / "scans" / "list.json"), *words])
    return ended.value.code


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scans_become_labelled_and_nothing_is_replaced(folder, capsys):
    before = snapshot(folder)
    assert accept(folder) == 0
    assert "list_2.json (3 labelled, 1 unlabeled)" in capsys.readouterr().out
    cases = load_datalist(folder / "scans" / "list_2.json")
    assert [case["image"].rsplit("/", 1)[1] for case in cases["training"]] == [f"s{n}_0000.nii.gz" for n in range(3)]
    assert [case["image"].rsplit("/", 1)[1] for case in cases["unlabeled"]] == ["s3_0000.nii.gz"]
    for number in (1, 2):
        label = np.asarray(nibabel.load(cases["training"][number]["label"]).dataobj)
        assert np.flatnonzero(label.any((1, 2))).tolist() == [2 + number, 3 + number]
    raw = json.loads((folder / "scans" / "list_2.json").read_text())
    assert raw["name"] == "mine" and raw["training"][1]["note"] == 1
    assert raw["training"][1]["label"] == "accepted_labels/s1_seg.nii.gz"
    after = snapshot(folder)
    assert {path: after[path] for path in before} == before
    assert accept(folder) == 0 and (folder / "scans" / "list_3.json").exists()  # the same labels again
    assert {path: snapshot(folder)[path] for path in after} == after


def test_segmentations_in_the_values_of_the_datalist_are_taken(folder):
    path = folder / "scans" / "list.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "values": [0, 255]}))
    for file in (folder / "scans" / "labels" / "s0.nii.gz", *(folder / "done").glob("*_seg.nii.gz")):
        save(255 * np.asarray(nibabel.load(file).dataobj).astype(np.uint8), file)
    assert accept(folder) == 0
    cases = load_datalist(folder / "scans" / "list_2.json")
    assert [case["values"] for case in cases["training"]] == [[0, 255]] * 3


def test_the_names_of_reviewed_segments_count(folder, capsys):
    path = folder / "scans" / "list.json"
    content = json.loads(path.read_text())
    content["labels"]["2"] = "valve"
    path.write_text(json.dumps(content))
    for file in (folder / "done").glob("*_seg.nii.gz"):
        file.unlink()
    voxels = np.zeros((6, 6, 6), np.uint8)
    voxels[1], voxels[3] = 1, 2
    head = ["NRRD0004", "type: uchar", "dimension: 3", "space: right-anterior-superior", "sizes: 6 6 6"]
    head += ["space directions: (1,0,0) (0,1,0) (0,0,2)", "encoding: raw", "space origin: (0,0,0)"]
    for number, name in enumerate(("valve", "heart")):  # drawn in another order than the classes'
        head += [f"Segment{number}_ID:=Segment_{number}", f"Segment{number}_LabelValue:={number + 1}"]
        head += [f"Segment{number}_Name:={name}"]
    (folder / "done" / "s1.seg.nrrd").write_bytes(("\n".join(head) + "\n\n").encode() + voxels.tobytes(order="F"))
    assert accept(folder) == 0, capsys.readouterr()
    assert load_datalist(folder / "scans" / "list_2.json")["training"][1]["values"] == [0, 2, 1]


def test_some_can_be_chosen(folder):
    assert accept(folder, "--only=s2", "--output", str(folder / "scans" / "new.json")) == 0
    cases = load_datalist(folder / "scans" / "new.json")
    assert [len(cases[section]) for section in ("training", "unlabeled")] == [2, 2]
    assert not (folder / "scans" / "accepted_labels" / "s1_seg.nii.gz").exists()


@pytest.mark.parametrize(
    ("name", "array", "words", "message"),
    [
        ("s1_seg.nii.gz", np.full((6, 6, 6), 2, np.uint8), [], "value"),
        ("s1_seg.nii.gz", np.zeros((6, 6, 5), np.uint8), [], "s1_seg.nii.gz"),
        ("s9_seg.nii.gz", np.zeros((6, 6, 6), np.uint8), [], "no unlabelled scan has the name s9"),
        ("s0_seg.nii.gz", np.zeros((6, 6, 6), np.uint8), [], "no unlabelled scan has the name s0"),
        ("s1_seg.nii", np.zeros((6, 6, 6), np.uint8), [], "s1_seg.nii is of the same scan"),
        (None, None, ["--only=s3"], "has no segmentation of s3"),
        (None, None, ["--output=list.json"], "must lie beside"),
    ],
)
def test_what_cannot_be_a_label_is_named_and_nothing_written(folder, capsys, name, array, words, message):
    if name:
        save(array, folder / "done" / name)
    before = snapshot(folder)
    assert accept(folder, *words) == 1
    assert message in capsys.readouterr().err
    assert snapshot(folder) == before


def test_a_label_that_differs_from_an_accepted_one_is_not_lost(folder, capsys):
    assert accept(folder, "--only=s1") == 0
    save(np.eye(6, dtype=np.uint8)[..., None].repeat(6, 2), folder / "done" / "s1_seg.nii.gz")
    before = snapshot(folder)
    assert accept(folder) == 1
    assert "is there already and differs" in capsys.readouterr().err and snapshot(folder) == before


def test_a_datalist_of_json_lines_stays_one(folder):
    listing = folder / "scans" / "list.json"
    content = json.loads(listing.read_text())
    lines = [{"labels": content["labels"]}]
    lines += [{"section": section, **case} for section in ("training", "unlabeled") for case in content[section]]
    listing.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(SystemExit) as ended:
        main(["accept", str(folder / "done"), str(listing.with_suffix(".jsonl"))])
    assert ended.value.code == 0
    cases = load_datalist(folder / "scans" / "list_2.jsonl")
    assert len(cases["training"]) == 3 and len(cases["unlabeled"]) == 1
