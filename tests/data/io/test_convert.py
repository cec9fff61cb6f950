# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import itk
import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage
from raw_scans import write_plane

from scripts.cli import main
from scripts.data import DataError, convert_scans

AFFINE = np.array([[0, -0.5, 0, 12.0], [0.7, 0, 0, -3.0], [0, 0, 2.0, 40.0], [0, 0, 0, 1]])


def voxels_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-500, 500, (7, 6, 5)).astype(np.int16)


def write(path: Path, seed: int) -> None:
    """A scan by way of ITK in the format of the suffix, geometry included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti = path.with_name("source.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels_of(seed), AFFINE), nifti)
    itk.imwrite(itk.imread(str(nifti)), str(path))
    nifti.unlink()


def test_round_trip_keeps_values_type_affine_and_folders(tmp_path):
    names = ["a.nrrd", "images/b.mha", "images/deep/ä c.mhd", "d.nii.gz"]
    for seed, name in enumerate(names):
        write(tmp_path / "in" / name, seed)
    files = convert_scans(tmp_path / "in", tmp_path / "out", progress=False)
    found = {Path(file).relative_to(tmp_path / "out").as_posix(): nibabel.load(file) for file in files}
    assert set(found) == {"a.nii.gz", "images/b.nii.gz", "images/deep/ä c.nii.gz", "d.nii.gz"}
    for seed, name in enumerate(["a.nii.gz", "images/b.nii.gz", "images/deep/ä c.nii.gz", "d.nii.gz"]):
        assert found[name].get_data_dtype() == np.int16
        assert (np.asarray(found[name].dataobj) == voxels_of(seed)).all()
        assert found[name].affine == pytest.approx(AFFINE, abs=1e-5)


def test_dicom_series_becomes_one_file_with_its_geometry(shared_data, tmp_path):
    source = shared_data / "dicom" / "hippocampus_series"
    assert convert_scans(source, tmp_path, progress=False) == [str(tmp_path / "hippocampus_series.nii.gz")]
    series, nifti = (LoadImage(image_only=True)(path) for path in (source, tmp_path / "hippocampus_series.nii.gz"))
    assert bool((series == nifti).all())
    assert np.allclose(series.affine, nifti.affine, atol=1e-4)


def test_benchmark_files_become_their_nifti_twins(shared_data, tmp_path):
    folder = shared_data / "left_atrium"
    case = "8M99G0JLAXG9GLPV0O8G"
    shutil.copytree(folder / "h5" / case, tmp_path / "in" / case, copy_function=shutil.copyfile)
    convert_scans(tmp_path / "in", tmp_path / "out", progress=False)
    for role in ("images", "labels"):
        first, second = (nibabel.load(root / role / f"{case}.nii.gz") for root in (folder, tmp_path / "out"))
        assert np.abs(first.get_fdata() - second.get_fdata()).max() < 1e-5
        assert np.allclose(first.affine, second.affine)


def test_spacing_of_hdf5_and_a_file_without_label(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["image"] = np.zeros((4, 4, 4), np.float32)
    files = convert_scans(tmp_path / "x.h5", tmp_path / "out", spacing=(1, 1, 2.5), progress=False)
    assert files == [str(tmp_path / "out" / "images" / "x.nii.gz")]
    assert nibabel.load(files[0]).header.get_zooms() == (1, 1, 2.5)


def test_damaged_scan_is_named_and_leaves_no_file(tmp_path):
    write(tmp_path / "a.nrrd", 0)
    (tmp_path / "a.nrrd").write_bytes((tmp_path / "a.nrrd").read_bytes()[:-100])
    with pytest.raises(DataError, match="a.nrrd: cannot be read"):
        convert_scans(tmp_path / "a.nrrd", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unasked(tmp_path):
    write(tmp_path / "in" / "a.nrrd", 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_text("mine")
    with pytest.raises(DataError, match="a.nii.gz: exists already"):
        convert_scans(tmp_path / "in", tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "a.nii.gz").read_text() == "mine"
    convert_scans(tmp_path / "in", tmp_path / "out", overwrite=True, progress=False)
    assert nibabel.load(tmp_path / "out" / "a.nii.gz").shape == (7, 6, 5)


def test_two_scans_of_one_name_and_an_empty_folder(tmp_path):
    write(tmp_path / "a.nrrd", 0)
    write(tmp_path / "a.mha", 1)
    with pytest.raises(DataError, match="would become a.nii.gz, as would"):
        convert_scans(tmp_path, tmp_path / "out", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to convert"):
        convert_scans(tmp_path / "empty", tmp_path / "out", progress=False)


def test_by_command_line(tmp_path, capsys):
    write(tmp_path / "in" / "a.nrrd", 0)
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(tmp_path / "in"), str(tmp_path / "out")])
    assert caught.value.code == 0 and "1 files written" in capsys.readouterr().out


@pytest.mark.parametrize("spacing", [1, (1, 1), (1, 1, 0), ("a", "b", "c"), "1x1x1"])
def test_spacing_that_is_none(tmp_path, spacing):
    with pytest.raises(DataError, match="must be three lengths in mm"):
        convert_scans(tmp_path, tmp_path / "out", spacing=spacing, progress=False)


def test_what_a_user_should_know_of_a_scan_is_said(tmp_path, caplog):
    for number in range(3):
        write_plane(tmp_path / "tilt" / f"{number}.dcm", np.zeros((3, 4)), (0, 2 * number, 2 * number))
    [path] = convert_scans(tmp_path / "tilt", tmp_path / "out", progress=False)
    assert "slices are tilted by 45.0 degrees; the shear is kept" in caplog.text
    assert nibabel.load(path).affine[:3, 2] == pytest.approx([0, -2, 2])
