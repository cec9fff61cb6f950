# SPDX-License-Identifier: Apache-2.0
"""2D images are known from 3D scans by their files, and both together are refused by name."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from scripts.data import (
    DataError,
    check_data,
    collect_cases,
    find_images,
    fingerprint,
    load_datalist,
    split_cases,
    write_datalist,
)
from scripts.data.datalist.dimensions import spatial_dims_of


def picture(path, shape=(5, 7), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng([seed, *path.name.encode()]).integers(0, 255, shape, dtype=np.uint8)).save(
        path
    )
    return str(path)


def nifti(path, shape):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng([*path.name.encode()]).random(shape, dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return str(path)


@pytest.mark.parametrize(("shape", "dims"), [((5, 7), 2), ((5, 7, 1), 2), ((5, 7, 1, 2), 2), ((5, 7, 3), 3)])
def test_headers_of_nifti_say_which(tmp_path, shape, dims):
    assert spatial_dims_of([nifti(tmp_path / "a.nii.gz", shape)]) == dims


def test_a_slice_among_volumes_is_3d(tmp_path):
    assert spatial_dims_of([nifti(tmp_path / "a.nii.gz", (5, 7, 1)), nifti(tmp_path / "b.nii.gz", (5, 7, 3))]) == 3


def test_pictures_among_volumes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"b\.png: a 2D image, but .*a\.nii\.gz is a 3D scan"):
        spatial_dims_of([nifti(tmp_path / "a.nii.gz", (5, 7, 3)), picture(tmp_path / "b.png")])


def test_what_only_shows_a_volume_is_no_scan(tmp_path):
    """A case's folder may hold a preview, as may a folder of scans to segment; 2D networks take it as an image."""
    for case in ("a", "b"):
        nifti(tmp_path / "cases" / case / "scan.nii.gz", (5, 7, 3))
        picture(tmp_path / "cases" / case / "preview.png")
        nifti(tmp_path / "flat" / f"{case}.nii.gz", (5, 7, 3))
    picture(tmp_path / "flat" / "overview.jpg")
    found = collect_cases(tmp_path / "cases")
    assert [case.name for case in found.cases] == ["a", "b"] and "a 2D image beside a 3D scan" in found.summary
    assert len(find_images(tmp_path / "flat")) == 2 and len(find_images(tmp_path / "flat", spatial_dims=2)) == 3


def folder_of_pictures(folder, count=3):
    for number in range(count):
        picture(folder / "images" / f"case{number}.png", (40, 64))
        (folder / "labels").mkdir(exist_ok=True)
        label = np.zeros((40, 64), np.uint8)
        label[3:8, 30:50] = 1
        Image.fromarray(label).save(folder / "labels" / f"case{number}.png")
    return folder


def test_split_says_2d_and_all_else_follows(tmp_path):
    folder = folder_of_pictures(tmp_path)
    path = write_datalist(split_cases(folder, progress=False), folder / "datalist.json")
    assert json.loads((folder / "datalist.json").read_text())["spatial_dims"] == 2
    datalist = load_datalist(path)
    report = check_data(datalist, progress=False)
    assert datalist["spatial_dims"] == report.spatial_dims == 2 and report.warnings == []
    found = fingerprint(report)
    assert found.spacing_for() == [1.0, 1.0]  # columns, rows
    assert found.patch_size([1.0, 1.0], 16, voxels=10**6) == [64, 32] and found.channels == 1
    assert found.patch_size([1.0, 1.0], 16, voxels=3 * 256) == [48, 16]


def test_a_datalist_of_pictures_without_that_word_is_2d_too(tmp_path):
    folder = folder_of_pictures(tmp_path)
    path = write_datalist(split_cases(folder, progress=False), folder / "datalist.json")
    content = json.loads((folder / "datalist.json").read_text())
    del content["spatial_dims"]
    (folder / "datalist.json").write_text(json.dumps(content))
    assert load_datalist(path)["spatial_dims"] == 2
    (folder / "datalist.json").write_text(json.dumps({**content, "spatial_dims": 4}))
    with pytest.raises(DataError, match='"spatial_dims" is 4. Write 2 or 3'):
        load_datalist(path)


@pytest.mark.parametrize(
    ("dims", "shape", "message"),
    [(2, (5, 7, 3), "a.nii.gz: 3D, shape .* Only 2D images"), (3, (5, 7), "a.nii.gz: 2D, shape 5 x 7. Only 3D scans")],
)
def test_the_check_names_what_the_networks_cannot_take(tmp_path, dims, shape, message):
    scan = nifti(tmp_path / "a.nii.gz", shape)
    datalist = {"labels": {0: "background", 1: "blob"}, "unlabeled": [{"image": scan}], "spatial_dims": dims}
    with pytest.raises(DataError, match=message):
        check_data(datalist, progress=False)


def test_a_scan_of_indexed_colours_is_refused_but_a_label_is_not(tmp_path):
    indexed = Image.new("P", (7, 5))
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    indexed.paste(1, (0, 0, 3, 3))
    indexed.save(tmp_path / "label.png")
    labels = {0: "background", 1: "blob"}
    good = {"image": picture(tmp_path / "scan.png"), "label": str(tmp_path / "label.png")}
    report = check_data({"labels": labels, "training": [good], "spatial_dims": 2}, progress=False)
    assert report.cases[0].label_voxels == {0: 26, 1: 9}
    with pytest.raises(DataError, match=r"label.png: a picture of indexed colours"):
        check_data({"labels": labels, "unlabeled": [{"image": good["label"]}], "spatial_dims": 2}, progress=False)


def test_a_picture_as_label_lies_on_its_scan_whatever_the_scan_says_of_its_place(tmp_path):
    scan = nifti(tmp_path / "a.nii.gz", (7, 5, 1))
    nibabel.save(nibabel.Nifti1Image(nibabel.load(scan).get_fdata(), np.diag([-0.4, -0.4, 2, 1])), scan)
    Image.fromarray((np.indices((5, 7))[1] > 3).astype(np.uint8)).save(tmp_path / "label.png")
    case = {"image": scan, "label": str(tmp_path / "label.png")}
    labels = {0: "background", 1: "blob"}
    report = check_data({"labels": labels, "training": [case], "spatial_dims": 2}, progress=False)
    assert report.cases[0].label_voxels == {0: 20, 1: 15}
    Image.fromarray(np.zeros((4, 7), np.uint8)).save(tmp_path / "label.png")
    with pytest.raises(DataError, match=r"label.png: shape \(7, 4, 1\), but its image has \(7, 5, 1\)"):
        check_data({"labels": labels, "training": [case], "spatial_dims": 2}, progress=False)
