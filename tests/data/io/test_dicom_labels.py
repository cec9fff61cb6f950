# SPDX-License-Identifier: Apache-2.0
"""SEG and RTSTRUCT files on the voxels of their scan; expected masks are made by NumPy."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from raw_scans import save_object, sequence, write_plane, write_segmentation

from scripts.cli import main
from scripts.data import DataError, collect_cases, convert_scans, load_datalist

COLUMNS, ROWS, SLICES = 10, 8, 5
SPACING = (0.5, 1.5, 2.0)  # of columns, rows, slices, as write_plane has it
LIVER = np.zeros((COLUMNS, ROWS, SLICES), bool)
LIVER[1:6, 2:7, 1:3] = True
SPLEEN = np.zeros_like(LIVER)
SPLEEN[7:9, 1:4, 3] = True


def series(folder: Path) -> None:
    for number in range(SLICES):
        pixels = np.full((ROWS, COLUMNS), number)
        write_plane(folder / f"{number}.dcm", pixels, (0, 0, SPACING[2] * number))


def segmentation(path: Path, masks: dict[str, np.ndarray], **options) -> None:
    write_segmentation(path, masks, SPACING, **options)


def contours(path: Path, drawn: dict[str, list[np.ndarray]], on: str = "1.2.3") -> None:
    """An RTSTRUCT; each contour is points [n, 3] in voxels of the scan."""
    content = Dataset()
    content.Modality = "RTSTRUCT"
    study = sequence(RTReferencedSeriesSequence=sequence(SeriesInstanceUID=on))
    content.ReferencedFrameOfReferenceSequence = sequence(RTReferencedStudySequence=study)
    content.StructureSetROISequence = [sequence(ROINumber=n, ROIName=name)[0] for n, name in enumerate(drawn)]
    content.ROIContourSequence = []
    for number, points in enumerate(drawn.values()):
        lines = []
        for one in points:
            data = (np.asarray(one) * SPACING).ravel().tolist()
            lines += sequence(ContourGeometricType="CLOSED_PLANAR", ContourData=data, NumberOfContourPoints=len(one))
        content.ROIContourSequence += sequence(ReferencedROINumber=number, ContourSequence=lines)
    save_object(content, path, pydicom.uid.RTStructureSetStorage)


def box(x0, x1, y0, y1, z) -> np.ndarray:
    """The outline of voxels x0 to x1 and y0 to y1, a third of a voxel outside of their centres."""
    x0, x1, y0, y1 = x0 - 1 / 3, x1 + 1 / 3, y0 - 1 / 3, y1 + 1 / 3
    return np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])


def label_of(folder: Path, **options) -> np.ndarray:
    written = [Path(path) for path in convert_scans(folder, folder.parent / "out", progress=False, **options)]
    assert [path.name for path in written] == ["CT.nii.gz", "CT_label.nii.gz"]
    scan, label = map(nibabel.load, written)
    assert np.array_equal(scan.affine, label.affine) and label.get_data_dtype() == np.uint8
    assert np.asarray(scan.dataobj)[0, 0].tolist() == [0, 1, 2, 3, 4]  # slices in their order
    [case] = collect_cases(folder.parent / "out").cases
    assert case.label == str(written[1])
    return np.asarray(label.dataobj)


def test_a_segmentation_on_reversed_rows_and_some_slices(tmp_path):
    series(tmp_path / "p" / "CT")
    segmentation(tmp_path / "p" / "SEG" / "1.dcm", {"spleen": SPLEEN, "liver": LIVER})
    assert np.array_equal(label_of(tmp_path / "p"), np.where(LIVER, 1, np.where(SPLEEN, 2, 0)))  # by the alphabet
    with pytest.raises(DataError, match="--segments kidney: no such structure; there are liver, spleen"):
        convert_scans(tmp_path / "p", tmp_path / "other", progress=False, segments=["kidney"])
    assert np.array_equal(label_of(tmp_path / "p", segments=["spleen"], overwrite=True), np.where(SPLEEN, 1, 0))


def test_contours_with_a_hole(tmp_path):
    series(tmp_path / "p" / "CT")
    liver = [box(1, 5, 2, 6, z) for z in (1, 2)] + [box(3, 3, 4, 5, 2)]
    contours(tmp_path / "p" / "CT" / "rt.dcm", {"liver": liver, "spleen": [box(7, 8, 1, 3, 3)]})
    expected = np.where(LIVER, 1, np.where(SPLEEN, 2, 0))
    expected[3, 4:6, 2] = 0
    assert np.array_equal(label_of(tmp_path / "p"), expected)


def test_labels_that_cannot_be_used_are_named(tmp_path):
    series(tmp_path / "p" / "CT")
    cases = [
        (lambda path: segmentation(path, {"liver": LIVER}, on="9.9"), "drawn on the series 9.9, which is not there"),
        (lambda path: segmentation(path, {"liver": LIVER}, shift=0.2), "a frame that is not on the voxels of its scan"),
        (lambda path: segmentation(path, {"a": LIVER, "b": LIVER}), "50 voxels are in b and in a.*--segments"),
        (
            lambda path: contours(path, {"a": [box(1, 2, 1, 2, 1.5)]}),
            "a contour of a that lies on none of the scan's slices",
        ),
        (
            lambda path: contours(path, {"a": [box(1, 2, 1, 2, 7)]}),
            "a contour of a that lies on none of the scan's slices",
        ),
    ]
    for write, message in cases:
        write(tmp_path / "p" / "X" / "1.dcm")
        with pytest.raises(DataError, match=f"1.dcm: .*{message}"):
            convert_scans(tmp_path / "p", tmp_path / "out", progress=False, overwrite=True)
    found = collect_cases(tmp_path / "p")
    assert [case.name for case in found.cases] == ["CT"]
    assert list(found.unused.values()) == ["SEG or RTSTRUCT: `dualseg split` and `dualseg convert` make a label of it"]


def patients(folder: Path) -> Path:
    """A scan with a SEG, one with an RTSTRUCT in a folder of its own, one without a label, one label too many."""
    for number, name in enumerate("abc"):
        series(folder / name / "CT")
        for file in (folder / name / "CT").iterdir():
            content = pydicom.dcmread(file)
            content.PixelData = (content.pixel_array + number).tobytes()
            content.SeriesInstanceUID = f"1.2.{name.encode()[0]}"
            content.save_as(file)
    segmentation(folder / "a" / "SEG" / "1.dcm", {"spleen": SPLEEN, "liver": LIVER}, on="1.2.97")
    contours(folder / "rt" / "1.dcm", {"liver": [box(1, 5, 2, 6, z) for z in (1, 2)]}, on="1.2.98")
    contours(folder / "rt" / "2.dcm", {"liver": [box(1, 5, 2, 6, 1)]}, on="1.2.100")
    return folder


def voxels(file: str) -> np.ndarray:
    return np.asarray(nibabel.load(file).dataobj)


def run(*command: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in command])
    return int(stopped.value.code or 0)


def test_split_draws_the_labels_of_dicom_scans_and_check_reads_them(tmp_path, capsys):
    folder = patients(tmp_path / "p")
    assert run("split", folder, "--segments", "liver,spleen") == 0
    said = capsys.readouterr().out
    assert "2.dcm (SEG or RTSTRUCT, drawn on a series that is not there)" in said
    assert "classes: 0 background, 1 liver, 2 spleen" in said
    datalist = load_datalist(folder / "datalist.json")
    labels = {Path(case["image"]).name: case["label"] for case in datalist["training"]}
    assert labels.keys() == {"a", "b"} and len(datalist["unlabeled"]) == 1
    assert np.array_equal(voxels(labels["a"]), np.where(LIVER, 1, np.where(SPLEEN, 2, 0)))
    assert np.array_equal(voxels(labels["b"]), LIVER)
    assert run("check", folder) == 0


def test_labels_that_split_has_drawn_are_drawn_again_and_others_are_kept(tmp_path, capsys):
    folder = patients(tmp_path / "p")
    assert run("split", folder) == 0
    (folder / "datalist.json").unlink()
    assert run("split", folder) == 0  # as after an interruption: the labels that are there are the same
    drawn = folder / "dicom_labels" / "a.nii.gz"
    image = nibabel.load(drawn)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), drawn)
    (folder / "datalist.json").unlink()
    assert run("split", folder) == 1 and not voxels(drawn).any()
    assert "a.nii.gz: is there already, with another content" in capsys.readouterr().err.replace("\n", " ")
    assert run("split", folder, "--overwrite") == 0 and voxels(drawn).any()
    assert run("split", folder, "--overwrite", "--segments", "kidney") == 1
    assert "--segments kidney: no such structure; there are liver, spleen" in capsys.readouterr().err
