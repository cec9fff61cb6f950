# SPDX-License-Identifier: Apache-2.0
"""Segmentations in other formats: read back by other programs, they lie where the scan lies."""

import sys

import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from raw_scans import write_slice

from scripts.data import open_volume
from scripts.data.io.formats.dicom import dicom_volume
from scripts.data.io.formats.segments import segments_of
from scripts.errors import DataError
from scripts.inference import SaveFormatd, UsableScans
from scripts.inference.saving import save_dicom_seg, save_seg_nrrd

LABELS = {0: "background", 1: "left part", 2: "right"}
OBLIQUE = np.array([[0.8, 0.1, 0.3, 10], [-0.2, 0.9, 0.1, -20], [0.1, -0.2, 2.4, 30], [0, 0, 0, 1.0]])


def blocks(shape):
    voxels = np.zeros(shape, np.uint8)
    voxels[1:3, 2:4, 1:] = 1
    voxels[4, :, 2] = 2
    return voxels


def test_nrrd_has_names_and_lies_where_the_scan_lies(tmp_path):
    voxels, path = blocks((6, 5, 4)), tmp_path / "a.seg.nrrd"
    save_seg_nrrd(voxels, OBLIQUE, path, LABELS)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).T, voxels)
    for index in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (1, 2, 3)):
        expected = (OBLIQUE @ [*index, 1])[:3] * (-1, -1, 1)
        assert np.allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=1e-9)
    assert [(one.name, one.value) for one in segments_of(str(path))] == [("left part", 1), ("right", 2)]
    assert image.GetMetaData("Segment1_Extent") == "4 4 0 4 2 2"
    with open_volume(path) as volume:
        assert np.allclose(volume.affine, OBLIQUE)


def test_an_empty_class_is_still_named(tmp_path):
    save_seg_nrrd(np.zeros((3, 3, 3), np.uint8), np.eye(4), tmp_path / "a.seg.nrrd", LABELS)
    image = SimpleITK.ReadImage(str(tmp_path / "a.seg.nrrd"))
    assert (
        image.GetMetaData("Segment0_Name") == "left part" and image.GetMetaData("Segment0_Extent") == "0 -1 0 -1 0 -1"
    )


def placed(dataset):
    """{(segment, position of its first voxel, rounded): plane} of a DICOM SEG, by pydicom alone."""
    found = {}
    for frame, plane in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[segment, tuple(round(float(x), 2) for x in position)] = plane
    return found


def check_seg(path, series, voxels):
    """Each plane of each segment, at the place that the series gives to its slice."""
    dataset, volume = pydicom.dcmread(path), dicom_volume(series)
    assert dataset.Modality == "SEG" and [s.SegmentLabel for s in dataset.SegmentSequence] == ["left part", "right"]
    source = pydicom.dcmread(volume.files[0])
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert (dataset.get(name) or None) == (source.get(name) or None)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert np.allclose(shared.PixelMeasuresSequence[0].PixelSpacing, source.PixelSpacing)
    assert np.allclose(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, source.ImageOrientationPatient, atol=1e-5
    )
    planes = placed(dataset)
    expected = {}
    for number in range(voxels.shape[2]):
        corner = volume.affine @ [0, 0, number, 1]
        place = tuple(round(float(x), 2) for x in corner[:3] * (-1, -1, 1))
        for segment in (1, 2):
            if (voxels[:, :, number] == segment).any():
                expected[segment, place] = (voxels[:, :, number] == segment).T
    assert planes.keys() == expected.keys()
    assert all(np.array_equal(planes[key], expected[key]) for key in expected)


def test_dicom_seg_of_a_real_series(shared_data, tmp_path):
    pytest.importorskip("highdicom")
    series = shared_data / "dicom" / "hippocampus_series"
    voxels = blocks(dicom_volume(series).shape)
    save_dicom_seg(voxels, tmp_path / "a_seg.dcm", series, LABELS)
    check_seg(tmp_path / "a_seg.dcm", series, voxels)


def test_a_scan_that_is_dicom_becomes_dicom_and_others_nifti(shared_data, tmp_path):
    pytest.importorskip("highdicom")
    series = shared_data / "dicom" / "hippocampus_series"
    save = SaveFormatd("pred", str(tmp_path), "dicom", {str(value): name for value, name in LABELS.items()})
    voxels = blocks(dicom_volume(series).shape)
    save({"pred": MetaTensor(torch.from_numpy(voxels)[None], meta={"filename_or_obj": str(series)})})
    check_seg(tmp_path / "hippocampus_series_seg.dcm", series, voxels)
    save({"pred": MetaTensor(torch.zeros(1, 3, 3, 3), meta={"filename_or_obj": "b.nii.gz"})})
    assert (tmp_path / "b_seg.nii.gz").is_file()
    with pytest.raises(DataError, match="is there already"):
        save({"pred": MetaTensor(torch.from_numpy(voxels)[None], meta={"filename_or_obj": str(series)})})


def test_a_missing_package_is_named_before_a_scan_is_segmented(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(DataError, match=r"takes highdicom: pip install"):
        SaveFormatd("pred", str(tmp_path), "dicom", LABELS)


def test_a_series_that_dicom_seg_cannot_refer_to_is_left_out_before_any_is_segmented(tmp_path):
    pytest.importorskip("highdicom")
    for name, frame in (("good", "1.2.3.5"), ("bad", "")):
        for number, pixels in enumerate(np.random.default_rng(0).normal(0, 100, (6, 12, 10))):
            write_slice(tmp_path / name / f"{number}.dcm", pixels, number, 1.5 * number, frame=frame)
    data = [{"image": str(tmp_path / name)} for name in ("good", "bad")]
    assert UsableScans(data, LABELS, 1).scans == data
    usable = UsableScans(data, LABELS, 1, skip=True, form="dicom")
    assert usable.scans == data[:1] and len(usable.reports) == 1
    assert "bad: no DICOM SEG can refer to it (Source images have no Frame Of Reference" in usable.problems[0]
    with pytest.raises(DataError, match="Use --format nifti"):
        UsableScans(data, LABELS, 1, form="dicom")


def test_nothing_found_is_a_valid_answer(shared_data, tmp_path):
    pytest.importorskip("highdicom")
    series = shared_data / "dicom" / "hippocampus_series"
    save_dicom_seg(np.zeros(dicom_volume(series).shape, np.uint8), tmp_path / "a_seg.dcm", series, LABELS)
    assert not pydicom.dcmread(tmp_path / "a_seg.dcm").pixel_array.any()


def test_formats_and_series_that_cannot_be_are_named(shared_data, tmp_path):
    with pytest.raises(DataError, match="--format png: must be one of nifti, dicom, nrrd"):
        SaveFormatd("pred", str(tmp_path), "png", LABELS)
    pytest.importorskip("highdicom")
    with pytest.raises(DataError, match="has changed since it was read"):
        save_dicom_seg(
            np.zeros((2, 2, 2), np.uint8), tmp_path / "a.dcm", shared_data / "dicom" / "hippocampus_series", LABELS
        )
