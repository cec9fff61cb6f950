# SPDX-License-Identifier: Apache-2.0
"""In segmentations of 3D Slicer the segments' names say which class is which, layers become one label."""

import json

import nibabel
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from scripts.data import LabelOnImaged, convert_scans, inspect_data, load_datalist, split_cases, write_datalist
from scripts.data.io.formats.segments import segments_of
from scripts.errors import DataError

SHAPE = (6, 5, 4)


def segmentation(path, voxels, *segments):
    """A file as 3D Slicer writes it: ``voxels`` [X, Y, Z] or [layer, X, Y, Z], segments as (name, value, layer)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layered = voxels.ndim == 4
    head = ["NRRD0004", "type: unsigned char", f"dimension: {voxels.ndim}", "space: left-posterior-superior"]
    head += [f"sizes: {' '.join(map(str, voxels.shape))}", "encoding: raw", "space origin: (0,0,0)"]
    head += [f"space directions: {'none ' if layered else ''}(-1,0,0) (0,-1,0) (0,0,1)"]
    head += [f"kinds: {'list ' if layered else ''}domain domain domain"]
    for number, (name, value, layer) in enumerate(segments):
        head += [f"Segment{number}_ID:=Segment_{number + 1}", f"Segment{number}_Name:={name}"]
        head += [f"Segment{number}_LabelValue:={value}", f"Segment{number}_Layer:={layer}"]
    path.write_bytes(("\n".join(head) + "\n\n").encode() + voxels.astype(np.uint8).tobytes(order="F"))


def scans(folder, cases="ab"):
    (folder / "images").mkdir()
    for number, case in enumerate(cases):
        image = np.random.default_rng(number).normal(100, 20, SHAPE).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "images" / f"{case}.nii.gz")


def blocks():
    """Where the liver is, and where the spleen; they do not touch."""
    liver, spleen = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    liver[1:3, 1:4, 1:3] = 1
    spleen[4, 2, :] = 1
    return liver, spleen


def class_numbers(datalist):
    """Label by case as training reads it, [X, Y, Z]."""
    read = Compose([LoadImaged(("image", "label")), EnsureChannelFirstd(("image", "label")), LabelOnImaged("label")])
    return [read(case)["label"][0].numpy() for case in datalist["training"]]


def split_and_load(folder, **options):
    write_datalist(split_cases(folder, shuffle=False, progress=False, **options), folder / "datalist.json")
    return load_datalist(folder / "datalist.json")


def test_the_same_structure_with_another_value_is_the_class_of_its_name(tmp_path):
    scans(tmp_path, "abc")
    liver, spleen = blocks()
    labels = tmp_path / "labels"
    segmentation(labels / "a.seg.nrrd", liver + 2 * spleen, ("Liver", 1, 0), ("spleen", 2, 0))
    segmentation(labels / "b.seg.nrrd", 2 * liver + spleen, ("Spleen", 1, 0), ("liver", 2, 0))
    segmentation(labels / "c.seg.nrrd", spleen, ("spleen_", 1, 0))
    datalist = split_and_load(tmp_path)
    assert datalist["labels"] == {0: "background", 1: "Liver", 2: "spleen"}
    for case, found, wanted in zip(
        "abc", class_numbers(datalist), [liver + 2 * spleen] * 2 + [2 * spleen], strict=True
    ):
        np.testing.assert_array_equal(found, wanted, err_msg=case)
    report = inspect_data(datalist, progress=False)
    assert [case.label_voxels for case in report.cases] == [
        {0: 104, 1: 12, 2: 4},
        {0: 104, 1: 12, 2: 4},
        {0: 116, 2: 4},
    ]


def test_a_datalist_of_ones_own_is_read_by_the_names_too(tmp_path):
    scans(tmp_path, "a")
    liver, spleen = blocks()
    segmentation(tmp_path / "labels" / "a.seg.nrrd", 2 * liver + spleen, ("spleen", 1, 0), ("liver", 2, 0))
    entry = {"image": "images/a.nii.gz", "label": "labels/a.seg.nrrd"}
    content = {"labels": {"0": "background", "1": "liver", "2": "spleen"}, "training": [entry]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    (found,) = class_numbers(load_datalist(tmp_path / "datalist.json"))
    np.testing.assert_array_equal(found, liver + 2 * spleen)
    content["ignore"] = 1
    content["labels"]["2"] = "kidney"
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="ignored value"):
        load_datalist(tmp_path / "datalist.json")


def test_names_that_no_file_has_are_only_names(tmp_path):
    scans(tmp_path, "a")
    liver, spleen = blocks()
    segmentation(tmp_path / "labels" / "a.seg.nrrd", liver + 2 * spleen, ("Segment_1", 1, 0), ("Segment_2", 2, 0))
    datalist = split_and_load(tmp_path, names="background,liver,spleen")
    assert "values" not in datalist["training"][0]
    np.testing.assert_array_equal(class_numbers(datalist)[0], liver + 2 * spleen)


def test_a_segment_that_is_no_class_is_named(tmp_path):
    scans(tmp_path)
    liver, spleen = blocks()
    segmentation(tmp_path / "labels" / "a.seg.nrrd", liver + 2 * spleen, ("liver", 1, 0), ("spleen", 2, 0))
    segmentation(tmp_path / "labels" / "b.seg.nrrd", liver + 2 * spleen, ("liver", 1, 0), ("kidney", 2, 0))
    wanted = (
        "b.seg.nrrd: value 2 is kidney, but liver, spleen are all.*a.seg.nrrd.*--names background,liver,spleen,kidney"
    )
    with pytest.raises(DataError, match=wanted):
        split_cases(tmp_path, progress=False)
    datalist = split_and_load(tmp_path, names="background,liver,spleen,kidney")
    assert [int(label.max()) for label in class_numbers(datalist)] == [2, 3]
    content = json.loads((tmp_path / "datalist.json").read_text())
    del content["labels"]["3"]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="b.seg.nrrd: value 2 is kidney, but spleen in other files. Rename it"):
        load_datalist(tmp_path / "datalist.json")


def test_two_segments_of_one_name_and_files_without_names_are_refused(tmp_path):
    scans(tmp_path)
    liver, spleen = blocks()
    segmentation(tmp_path / "labels" / "a.seg.nrrd", liver + 2 * spleen, ("liver", 1, 0), ("Liver", 2, 0))
    segmentation(tmp_path / "labels" / "b.seg.nrrd", liver, ("liver", 1, 0))
    with pytest.raises(DataError, match="a.seg.nrrd: two segments are 'liver'. Merge them"):
        split_and_load(tmp_path, names="background,liver")
    segmentation(tmp_path / "labels" / "a.seg.nrrd", 2 * liver + spleen, ("spleen", 1, 0), ("liver", 2, 0))
    (tmp_path / "labels" / "b.seg.nrrd").unlink()
    segmentation(tmp_path / "labels" / "b.nrrd", liver)
    scans_of_c = nibabel.load(tmp_path / "images" / "a.nii.gz")
    nibabel.save(scans_of_c, tmp_path / "images" / "c.nii.gz")
    segmentation(tmp_path / "labels" / "c.seg.nrrd", liver + 2 * spleen, ("liver", 1, 0), ("spleen", 2, 0))
    with pytest.raises(DataError, match="b.nrrd: does not say what its values are"):
        split_cases(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("values", "wanted"), [((1, 1), (1, 2)), ((3, 2), (3, 2))], ids=["one value twice", "a value each"]
)
def test_layers_that_do_not_overlap_are_one_label(tmp_path, values, wanted):
    scans(tmp_path, "a")
    liver, spleen = blocks()
    path = tmp_path / "labels" / "a.seg.nrrd"
    layers = np.stack([values[0] * liver, values[1] * spleen])
    segmentation(path, layers, ("liver", values[0], 0), ("spleen", values[1], 1))
    assert [(one.name, one.value) for one in segments_of(str(path))] == list(
        zip(("liver", "spleen"), wanted, strict=True)
    )
    datalist = split_and_load(tmp_path, names="background,liver,spleen")
    np.testing.assert_array_equal(class_numbers(datalist)[0], liver + 2 * spleen)


@pytest.mark.parametrize(
    ("segments", "wrong"),
    [
        ([("liver", 1, 0), ("spleen", 1, 1)], "2 layers, its segments overlap: 2 voxels are in 'liver' and 'spleen'"),
        ([("liver", 1, 0)], "2 layers, and 6 voxels in them belong to no segment"),
        ([("liver", 1, 0), ("spleen", 1, 2)], "2 layers, but segment 'spleen' is in number 2"),
    ],
)
def test_layers_that_do_are_refused(tmp_path, segments, wrong):
    scans(tmp_path, "a")
    liver, spleen = blocks()
    spleen[1, 1, 1:3] = 1
    segmentation(tmp_path / "labels" / "a.seg.nrrd", np.stack([liver, spleen]), *segments)
    with pytest.raises(DataError, match=f"a.seg.nrrd: {wrong}.*export it as one labelmap"):
        split_cases(tmp_path, progress=False)


def test_converted_segmentations_have_one_value_for_a_name(tmp_path, caplog):
    liver, spleen = blocks()
    segmentation(tmp_path / "in" / "a.seg.nrrd", liver + 2 * spleen, ("liver", 1, 0), ("spleen", 2, 0))
    segmentation(tmp_path / "in" / "b.seg.nrrd", 2 * liver + spleen, ("Spleen", 1, 0), ("Liver", 2, 0))
    segmentation(tmp_path / "in" / "c.seg.nrrd", np.stack([liver, spleen]), ("liver", 1, 0), ("kidney", 1, 1))
    files = sorted(convert_scans(tmp_path / "in", tmp_path / "out", progress=False))
    assert "0 background, 1 liver, 2 spleen, 3 kidney" in caplog.text
    found = [np.asarray(nibabel.load(file).dataobj) for file in files]
    for voxels, wanted in zip(found, (liver + 2 * spleen, liver + 2 * spleen, liver + 3 * spleen), strict=True):
        np.testing.assert_array_equal(voxels, wanted)
        assert voxels.dtype == np.uint8


@pytest.mark.parametrize("kind", ["short", "unsigned char", "int", "float"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_of_whole_numbers_in_a_nrrd(tmp_path, kind, channels):
    from monai.transforms import LoadImage

    from scripts.data.io.volumes import open_volume

    kinds = {"short": "<i2", "unsigned char": "u1", "int": "<i4", "float": "<f4"}
    voxels = np.random.default_rng(0).integers(0, 100, (channels, *SHAPE)).astype(kinds[kind])
    path = tmp_path / "a.nrrd"
    head = ["NRRD0004", f"type: {kind}", "dimension: 4", "space: right-anterior-superior", "encoding: raw"]
    head += [f"sizes: {channels} 6 5 4", "endian: little", "kinds: vector domain domain domain"]
    head += ["space directions: none (2,0,0) (0,3,0) (0,0,4)", "space origin: (7,8,9)"]
    path.write_bytes(("\n".join(head) + "\n\n").encode() + voxels.tobytes(order="F"))
    image = LoadImage(ensure_channel_first=True, image_only=True)(str(path))
    np.testing.assert_array_equal(image.numpy(), voxels)
    wanted = [[2, 0, 0, 7], [0, 3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1]]
    np.testing.assert_allclose(image.affine, wanted)
    with open_volume(path) as volume:
        assert (volume.shape, volume.channels) == (SHAPE, channels)
        np.testing.assert_array_equal(np.stack(list(volume.slabs())).reshape(voxels.shape), voxels)
        np.testing.assert_allclose(volume.affine, wanted)
