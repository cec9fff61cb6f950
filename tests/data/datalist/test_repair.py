# SPDX-License-Identifier: Apache-2.0
"""Repaired copies hold the same voxels at the same places, which nibabel's own reorientation tells."""

import gzip
import json
import shutil

import nibabel
import numpy as np
import pytest

from scripts.cli import main
from scripts.data import load_datalist

LABELS = {"0": "background", "1": "organ"}
AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])


def write(folder, image, label, values=None):
    """``image``, ``label``: NIfTI images of nibabel; a second, sound case beside them."""
    for role, made in (("images", image), ("labels", label)):
        (folder / role).mkdir(parents=True, exist_ok=True)
        nibabel.save(made, folder / role / "a.nii.gz")
    rng = np.random.default_rng(5)
    stored = np.resize([0, 1] if values is None else values, (4, 3, 2)).astype(np.uint8)
    nibabel.save(
        nibabel.Nifti1Image(rng.normal(size=(4, 3, 2)).astype(np.float32), AFFINE), folder / "images" / "b.nii.gz"
    )
    nibabel.save(nibabel.Nifti1Image(stored, AFFINE), folder / "labels" / "b.nii.gz")
    training = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "ab"]
    content = {"labels": LABELS, "training": training, **({"values": values} if values else {})}
    (folder / "datalist.json").write_text(json.dumps(content))


def run(*words):
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return done.value.code


IMAGE = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(4, 3, 2), AFFINE)
CLASSES = (np.arange(24).reshape(4, 3, 2) % 5 == 0).astype(np.uint8)


def big_endian(voxels):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(voxels.dtype.newbyteorder(">"))
    return nibabel.Nifti1Image(voxels.astype(voxels.dtype.newbyteorder(">")), AFFINE, header)


def turned(voxels):
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, AFFINE)).as_reoriented([[1, 1], [0, -1], [2, 1]])


@pytest.mark.parametrize(
    ("image", "label", "values", "words"),
    [
        (IMAGE, turned(CLASSES), None, "axes in the order of its scan's"),
        (IMAGE, nibabel.Nifti1Image(CLASSES.astype(np.float64), AFFINE), None, "8 bit"),
        (IMAGE, nibabel.Nifti1Image(CLASSES * 255, AFFINE), [0, 255], "class numbers 0 to 1 as values"),
        (IMAGE, nibabel.Nifti1Image(np.stack([1 - CLASSES, CLASSES], -1), AFFINE), None, "class numbers 0 to 1"),
        (big_endian(np.asarray(IMAGE.dataobj)), big_endian(CLASSES.astype(np.int16)), None, "the usual order of bytes"),
    ],
)
def test_copies_hold_the_same_voxels_at_the_same_places(tmp_path, capsys, image, label, values, words):
    write(tmp_path / "data", image, label, values)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run("check", tmp_path / "data") == 0
    shown = capsys.readouterr().out
    assert words in shown and "can be repaired, in copies: add --fix FOLDER" in shown
    assert run("check", tmp_path / "data", "--fix", tmp_path / "out") == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    first, second = load_datalist(tmp_path / "out" / "datalist.json")["training"]
    assert "values" not in json.loads((tmp_path / "out" / "datalist.json").read_text())
    fixed = nibabel.load(first["label"])
    assert fixed.get_data_dtype() == np.uint8 and fixed.header.endianness == "<"
    assert np.array_equal(fixed.dataobj, CLASSES) and np.allclose(fixed.affine, AFFINE)
    scan = nibabel.load(first["image"])
    assert scan.header.endianness == "<" and np.array_equal(scan.dataobj, IMAGE.dataobj)
    assert "out" in first["label"] and ("out" in second["label"]) == bool(values)
    assert run("check", tmp_path / "out") == 0
    assert "can be repaired" not in capsys.readouterr().out.splitlines()[-2]
    assert run("check", tmp_path / "data", "--fix", tmp_path / "out") == 1
    assert "is there already. Name another folder with --fix" in capsys.readouterr().err


@pytest.mark.parametrize("packed", [True, False])
def test_a_name_that_does_not_fit_the_compression(tmp_path, capsys, packed):
    write(tmp_path / "data", IMAGE, nibabel.Nifti1Image(CLASSES, AFFINE))
    good = (tmp_path / "data" / "images" / "a.nii.gz").read_bytes()
    if packed:
        (tmp_path / "data" / "images" / "a.nii.gz").rename(tmp_path / "data" / "images" / "a.nii")
        text = (tmp_path / "data" / "datalist.json").read_text().replace("images/a.nii.gz", "images/a.nii")
        (tmp_path / "data" / "datalist.json").write_text(text)
    else:
        (tmp_path / "data" / "images" / "a.nii.gz").write_bytes(gzip.decompress(good))
    assert run("check", tmp_path / "data") == 1
    assert (
        "named .nii.gz, as it is compressed" if packed else "compressed, as it is named .gz"
    ) in capsys.readouterr().out
    assert run("check", tmp_path / "data", "--fix", tmp_path / "out") == 0
    copy = load_datalist(tmp_path / "out" / "datalist.json")["training"][0]["image"]
    assert np.array_equal(nibabel.load(copy).dataobj, IMAGE.dataobj)


def test_values_stay_where_a_label_cannot_get_class_numbers(tmp_path, capsys):
    """One datalist has one set of values: a copy of class numbers beside a copy of values would be another label."""
    wanted = np.resize([0, 2, 1], (4, 3, 2)).astype(np.uint8)
    write(tmp_path / "data", IMAGE, turned(wanted), [0, 2, 1])
    path = tmp_path / "data" / "datalist.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "labels": {**LABELS, "2": "other"}}))
    second = tmp_path / "data" / "labels" / "b.nii.gz"
    second.write_bytes(gzip.decompress(second.read_bytes()))
    run("check", tmp_path / "data", "--fix", tmp_path / "out")
    assert "class numbers" not in capsys.readouterr().out
    cases = load_datalist(tmp_path / "out" / "datalist.json")["training"]
    assert [case["values"] for case in cases] == [[0, 2, 1]] * 2
    for case in cases:
        np.testing.assert_array_equal(np.asarray(nibabel.load(case["label"]).dataobj), wanted)


def test_what_would_be_a_guess_is_left_alone(tmp_path, capsys):
    moved = AFFINE.copy()
    moved[0, 3] = 1.0  # half a voxel: resampling, no repair
    write(tmp_path / "data", IMAGE, nibabel.Nifti1Image(CLASSES, moved))
    assert run("check", tmp_path / "data", "--fix", tmp_path / "out") == 1
    assert "there is nothing to repair exactly" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_check_names_files_beside_the_listed_ones(tmp_path, capsys):
    write(tmp_path / "data", IMAGE, nibabel.Nifti1Image(CLASSES, AFFINE))
    shutil.copy(tmp_path / "data" / "images" / "a.nii.gz", tmp_path / "data" / "images" / "forgotten.nii.gz")
    assert run("check", tmp_path / "data") == 0
    shown = capsys.readouterr().out
    assert "beside them, in no section:" in shown and "forgotten.nii.gz" in shown
