# SPDX-License-Identifier: Apache-2.0
"""DICOM: voxels where the headers say, by values computed here or by SimpleITK, or a refusal that says why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from monai.transforms import LoadImage
from raw_scans import save_dicom, write_plane

from scripts.data import DataError, convert_scans, open_volume

PIXELS = np.random.default_rng(0).integers(-900, 900, (6, 5, 4)).astype(np.int16)
"""[slice, row, column]"""


def series(folder: Path, positions, pixels=PIXELS, name="{}.dcm", tags=lambda number: {}, **common) -> Path:
    for number, position in enumerate(positions):
        write_plane(folder / name.format(number), pixels[number % len(pixels)], position, **common, **tags(number))
    return folder


def stacked(step=(0, 0, 2), count=6) -> list[np.ndarray]:
    return [np.array([10.0, -20.0, 30.0]) + number * np.array(step, float) for number in range(count)]


def refusal(path) -> str:
    with pytest.raises(DataError) as caught, open_volume(path):
        pass
    return str(caught.value)


def test_the_check_and_training_read_the_same_and_simpleitk_agrees(tmp_path):
    turned = (0, 1, 0, 0, 0, -1)  # columns run to posterior, rows to inferior: a sagittal stack
    folder = series(tmp_path / "a", stacked((-2, 0, 0))[::-1], directions=turned)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    other = reader.Execute()
    with open_volume(folder) as volume:
        voxels = np.concatenate(list(volume.slabs()), axis=2)
        index = np.array([3, 4, 5])
        point = np.array(other.TransformIndexToPhysicalPoint(index.tolist())) * [-1, -1, 1]
        assert (volume.affine @ [*index, 1])[:3] == pytest.approx(point)
        assert (voxels == SimpleITK.GetArrayFromImage(other).T).all()
    loaded = LoadImage(image_only=True)(str(folder))
    assert (loaded.numpy() == voxels).all() and np.allclose(loaded.affine, volume.affine)


def test_unequal_gaps_are_refused_and_the_gap_is_named(tmp_path):
    folder = series(tmp_path / "a", [(0, 0, z) for z in (0, 2, 4, 10, 12, 14)])
    assert "6 mm from 4 to 10 mm, elsewhere 2 mm" in refusal(folder)
    with pytest.raises(DataError, match="unequal gaps"):
        LoadImage()(str(folder))
    rounded = series(tmp_path / "b", [(0, 0, z) for z in (0, 2.05, 4, 5.98, 8, 10)])  # within a twentieth of the gap
    with open_volume(rounded) as volume:
        assert volume.spacing == pytest.approx((0.5, 1.5, 2.0))


def test_a_tilted_gantry_is_a_shear(tmp_path):
    shift = 2 * np.tan(np.radians(20))
    with open_volume(series(tmp_path / "a", stacked((0, shift, 2)))) as volume:
        assert volume.affine[:3, 2] == pytest.approx([0, -shift, 2])
        assert (volume.affine @ [0, 0, 5, 1])[:3] == pytest.approx([-10, 20 - 5 * shift, 40])
        assert "tilted by 20.0 degrees" in volume.notes[0]
    crooked = [np.add(position, [0, (number == 3) * 1.0, 0]) for number, position in enumerate(stacked())]
    assert "shifted unevenly" in refusal(series(tmp_path / "b", crooked))


def test_time_points_of_one_series_are_not_interleaved(tmp_path):
    twice = [*stacked(), *stacked()]
    assert "12 slices at 6 positions" in refusal(series(tmp_path / "a", twice))
    both = np.concatenate([PIXELS, PIXELS + 1])
    echoes = series(tmp_path / "b", twice, both, tags=lambda number: {"EchoTime": "10" if number < 6 else "20"})
    message = refusal(echoes)
    assert "2 DICOM series" in message and "EchoTime 10" in message and "EchoTime 20" in message
    with open_volume(f"{echoes}::1.2.3-2") as volume:
        assert (np.concatenate(list(volume.slabs()), axis=2) == both[6:].T).all()
    (file,) = convert_scans(f"{echoes}::1.2.3-2", tmp_path / "out", progress=False)
    assert Path(file).name == "b.nii.gz"
    assert "no such volume" in refusal(f"{echoes}::1.2.3-9")


def test_any_depth_and_any_suffix(tmp_path):
    series(tmp_path / "a" / "study" / "series", stacked(), name="IM{}")
    (tmp_path / "a" / "DICOMDIR.txt").write_text("index")
    with open_volume(tmp_path / "a") as volume:
        assert volume.shape == (4, 5, 6)


def test_what_is_no_slice_is_left_out_and_said(tmp_path):
    folder = series(tmp_path / "a", stacked())
    write_plane(folder / "scout.dcm", PIXELS[0], (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    shutil.copy(folder / "0.dcm", folder / "copy.dcm")
    with open_volume(folder) as volume:
        assert volume.shape == (4, 5, 6)
        assert "2 files are not used" in volume.notes[0] and "a localizer" in volume.notes[0]
        assert "a copy of" in volume.notes[0]


def test_two_orientations_in_one_series_are_two_scans(tmp_path):
    folder = series(tmp_path / "a", stacked())
    series(folder, stacked((0, 2, 0)), name="c{}.dcm", directions=(1, 0, 0, 0, 0, -1))
    assert "2 DICOM series" in refusal(folder)


def test_each_slice_has_its_own_rescaling(tmp_path):
    folder = series(tmp_path / "a", stacked(), tags=lambda number: {"RescaleSlope": f"{number + 1}.5"})
    with open_volume(folder) as volume:
        voxels = np.concatenate(list(volume.slabs()), axis=2)
    assert np.allclose(voxels, (PIXELS * (np.arange(6) + 1.5)[:, None, None]).T)


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_without_a_place_there_is_no_volume(tmp_path, tag):
    folder = series(tmp_path / "a", stacked())
    plane = pydicom.dcmread(folder / "3.dcm")
    delattr(plane, tag)
    plane.save_as(folder / "3.dcm")
    assert "3.dcm" in refusal(folder) and tag in refusal(folder)


def test_enhanced_files_have_their_frames_in_order_of_position(tmp_path):
    write_plane(tmp_path / "a" / "e", PIXELS[0], (0, 0, 0))
    whole = pydicom.dcmread(tmp_path / "a" / "e")
    order = [3, 0, 5, 1, 4, 2]
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(whole, tag)
    frames = []
    for number in order:
        frame, plane, values = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        plane.ImagePositionPatient = [0, 0, 3.0 * number]
        values.RescaleSlope, values.RescaleIntercept = "2", str(number)
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [plane], [values]
        frames.append(frame)
    shared, orientation, measures = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [1.5, 0.5], "3"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], frames
    whole.NumberOfFrames, whole.PixelData = 6, PIXELS[order].astype("<i2").tobytes()
    save_dicom(whole, tmp_path / "a" / "e")
    with open_volume(tmp_path / "a") as volume:
        voxels = np.concatenate(list(volume.slabs()), axis=2)
        assert volume.spacing == pytest.approx((0.5, 1.5, 3.0))
    assert np.allclose(voxels, (PIXELS * 2 + np.arange(6)[:, None, None]).T)
