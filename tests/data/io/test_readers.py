# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import itk
import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage, LoadImaged

from scripts.data import DataError, H5Reader, ThreadSafeNibabelReader, check_data, load_datalist, open_volume

CASES = ("5FKQL4K14KCB72Y8YMC2", "8M99G0JLAXG9GLPV0O8G", "FGM5NIWN3URY4HF4WNUW")


def write_h5(path: Path, **datasets) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file.create_dataset(name, data=array, compression="gzip")
    return path


@pytest.mark.parametrize("case", CASES)
def test_benchmark_files_and_their_nifti_twins_are_the_same_tensors(shared_data, case):
    folder = shared_data / "left_atrium"
    load = LoadImaged(keys=["image", "label"])
    h5 = load({key: f"{folder}/h5/{case}/mri_norm2.h5::{key}" for key in ("image", "label")})
    nifti = load({key: f"{folder}/{key}s/{case}.nii.gz" for key in ("image", "label")})
    assert float((h5["image"] - nifti["image"]).abs().max()) < 1e-5
    assert bool((h5["label"] == nifti["label"]).all())
    assert np.allclose(h5["image"].affine, nifti["image"].affine)
    assert list(h5["image"].meta["spatial_shape"]) == list(nifti["image"].meta["spatial_shape"])


def test_channels_survive_another_thread_reading_in_between(tmp_path):
    """The reader is shared by the threads that fill a cache: what one reads is no business of the others."""
    voxels = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    files = [str(tmp_path / f"case_000{channel}.nii.gz") for channel in (0, 1)]
    for file, channel in zip(files, voxels, strict=True):
        nibabel.save(nibabel.Nifti1Image(channel, np.eye(4)), file)
    (reader,) = [reader for reader in LoadImage().readers if isinstance(reader, ThreadSafeNibabelReader)]
    both = reader.read(files)
    reader.read(files[1])  # by another thread, before the first has its data
    found, meta = reader.get_data(both)
    assert (found == voxels).all() and meta["original_channel_dim"] == 0
    assert (LoadImage(image_only=True)(files).numpy() == voxels).all()


def test_one_h5_path_serves_image_and_label(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        image, label = rng.normal(size=(6, 7, 8)).astype(np.float32), np.zeros((6, 7, 8), np.uint8)
        label[2:4, 2:4, 2:4] = 1
        write_h5(tmp_path / name / "mri_norm2.h5", image=image, label=label)
    path = {name: f"{name}/mri_norm2.h5" for name in "abc"}
    content = {
        "labels": {"0": "background", "1": "atrium"},
        "training": [{"image": path["a"], "label": path["a"]}],
        "unlabeled": [{"image": path["b"]}],
        "test": [{"image": path["c"], "label": path["c"]}],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    datalist = load_datalist(tmp_path / "datalist.json")
    assert datalist["training"][0]["label"] == str(tmp_path / "a" / "mri_norm2.h5::label")
    report = check_data(datalist, progress=False)
    assert report.cases[0].spacing == (0.625,) * 3 and report.cases[0].label_voxels[1] == 8
    content["test"] = [{"image": path["a"], "label": path["a"]}]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match='in both "training" and "test"'):
        load_datalist(tmp_path / "datalist.json")


def test_spacing_by_name_and_by_argument(tmp_path):
    array = np.zeros((4, 5, 6), np.float32)
    atrium = write_h5(tmp_path / "mri_norm2.h5", image=array)
    pancreas = write_h5(tmp_path / "image0001_norm.h5", image=array)
    diagonal = {
        str(path.name): np.diag(LoadImage(image_only=True)(f"{path}::image").affine)[:3].tolist()
        for path in (atrium, pancreas)
    }
    assert diagonal == {"mri_norm2.h5": [0.625] * 3, "image0001_norm.h5": [1.0] * 3}
    loaded = LoadImage(reader=H5Reader(spacing=(2, 2, 3)), image_only=True)(f"{atrium}::image")
    assert np.diag(loaded.affine)[:3].tolist() == [2, 2, 3]


def test_h5_of_several_channels(tmp_path):
    array = np.random.default_rng(0).normal(size=(7, 6, 5, 2)).astype(np.float32)
    path = write_h5(tmp_path / "x.h5", image=array)
    loaded = LoadImage(image_only=True, ensure_channel_first=True)(f"{path}::image")
    assert loaded.shape == (2, 7, 6, 5) and (loaded.numpy() == np.moveaxis(array, -1, 0)).all()
    with open_volume(f"{path}::image") as volume:
        assert (volume.shape, volume.channels) == ((7, 6, 5), 2)
        slabs = list(volume.slabs())
    assert (np.stack(slabs, axis=-1) == array).all()


def test_missing_data_set_and_damaged_h5_are_named(tmp_path):
    path = write_h5(tmp_path / "x.h5", image=np.zeros((20, 20, 20)))
    with pytest.raises(DataError, match=re.escape("x.h5: no data set \"label\" in it, only ['image']")):
        with open_volume(f"{path}::label"):
            pass
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="x.h5::image: cannot be read"), open_volume(f"{path}::image"):
        pass


def test_dicom_series_has_the_geometry_of_itk(shared_data):
    folder = str(shared_data / "dicom" / "hippocampus_series")
    image = itk.imread([str(file) for file in sorted(Path(folder).iterdir(), key=_slice_position)])
    with open_volume(folder) as volume:
        voxels = np.concatenate([slab.reshape(*slab.shape[:2], -1) for slab in volume.slabs()], axis=2)
    assert volume.shape == tuple(image.GetLargestPossibleRegion().GetSize())
    assert volume.spacing == pytest.approx(tuple(image.GetSpacing()), abs=1e-5)
    to_ras = np.array([-1, -1, 1])  # ITK's world is LPS
    assert volume.affine[:3, 3] == pytest.approx(np.asarray(image.GetOrigin()) * to_ras, abs=1e-4)
    directions = itk.array_from_matrix(image.GetDirection()) * np.asarray(image.GetSpacing()) * to_ras[:, None]
    assert volume.affine[:3, :3] == pytest.approx(directions, abs=1e-4)
    assert (voxels == itk.array_view_from_image(image).T).all()


def test_dicom_series_has_the_geometry_of_simpleitk(shared_data):
    sitk = pytest.importorskip("SimpleITK")
    folder = str(shared_data / "dicom" / "hippocampus_series")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    image = reader.Execute()
    loaded = LoadImage(image_only=True)(folder)
    flip = np.diag([-1, -1, 1, 1])  # SimpleITK's world is LPS, ours RAS
    expected = np.eye(4)
    expected[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    expected[:3, 3] = image.GetOrigin()
    assert loaded.affine.numpy() == pytest.approx(flip @ expected, abs=1e-4)
    assert (loaded.numpy() == sitk.GetArrayFromImage(image).T).all()
    with open_volume(folder) as volume:
        assert volume.shape == image.GetSize() and volume.affine == pytest.approx(flip @ expected, abs=1e-4)


def _tag(file: Path, tag: str) -> str:
    reader = itk.GDCMImageIO.New()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return reader.GetMetaDataDictionary()[tag]


def _slice_position(file: Path) -> float:
    return float(_tag(file, "0020|0032").split("\\")[2])


def test_folder_of_two_series_is_refused(shared_data, tmp_path):
    source = shared_data / "dicom" / "hippocampus_series"
    uid = _tag(source / "1.dcm", "0020|000e").strip("\0 ").encode()
    other = uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2")
    for number in range(1, 7):
        slice_ = (source / f"{number}.dcm").read_bytes()
        assert uid in slice_
        (tmp_path / f"{number}.dcm").write_bytes(slice_ if number < 4 else slice_.replace(uid, other))
    with pytest.raises(DataError, match="2 DICOM series in it. A scan is a file, or a folder of exactly one"):
        with open_volume(tmp_path):
            pass


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_itk_formats_read_back_identical(tmp_path, suffix):
    rng = np.random.default_rng(0)
    voxels = rng.integers(-500, 500, (7, 6, 5)).astype(np.int16)
    affine = np.array([[0, -0.5, 0, 12.0], [0.7, 0, 0, -3.0], [0, 0, 2.0, 40.0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "x.nii.gz")
    itk.imwrite(itk.imread(str(tmp_path / "x.nii.gz")), str(tmp_path / f"y{suffix}"))
    with open_volume(tmp_path / f"y{suffix}") as volume:
        found = np.concatenate([s.reshape(7, 6, -1) for s in volume.slabs()], axis=2)
    assert (found == voxels).all()
    assert volume.affine == pytest.approx(affine, abs=1e-5)


def test_nrrd_of_a_left_atrium_scan_reads_back_identical(shared_data, tmp_path):
    source = shared_data / "left_atrium" / "images" / f"{CASES[0]}.nii.gz"
    itk.imwrite(itk.imread(str(source)), str(tmp_path / "scan.nrrd"))
    load = LoadImage(image_only=True)
    first, second = load(source), load(tmp_path / "scan.nrrd")
    assert bool((first == second).all())
    assert np.allclose(first.affine, second.affine, atol=1e-6)
