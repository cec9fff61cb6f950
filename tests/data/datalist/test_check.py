# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import logging
import os
import re
import time
import tracemalloc
from pathlib import Path

import h5py
import itk
import nibabel
import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from scripts.data import DataError, check_data, inspect_data, load_datalist, open_volume
from scripts.data.io import volumes as volumes_module

LABELS = {0: "background", 1: "heart", 2: "lung"}
AFFINE = np.array([[0.8, 0, 0, -10.0], [0, 0.9, 0, 5.0], [0, 0, 2.0, 3.0], [0, 0, 0, 1.0]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return str(path)


def image_of(seed: int, shape=(12, 10, 8)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def label_of(shape=(12, 10, 8)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[2:5, 2:5, 2:5], label[6:9, 6:9, 4:6] = 1, 2
    return label


@pytest.fixture
def sound(tmp_path):
    """Two training cases, one unlabelled, one test case; a test spoils one file of it."""
    datalist = {"labels": LABELS, "training": [], "unlabeled": [], "validation": [], "test": []}
    for seed, (name, section) in enumerate([("a", "training"), ("b", "training"), ("u", "unlabeled"), ("t", "test")]):
        case = {"image": save(tmp_path / f"{name}.nii.gz", image_of(seed))}
        if section != "unlabeled":
            case["label"] = save(tmp_path / f"{name}_label.nii.gz", label_of())
        datalist[section].append(case)
    return datalist


def errors_of(datalist, **arguments) -> list[str]:
    with pytest.raises(DataError) as caught:
        check_data(datalist, progress=False, **arguments)
    return caught.value.problems


def the_error(datalist, **arguments) -> str:
    problems = errors_of(datalist, **arguments)
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    return problems[0]


def test_report_holds_geometry_intensity_and_label_volumes(sound):
    report = check_data(sound, progress=False)
    case = report.cases[0]
    assert case.shape == (12, 10, 8) and case.orientation == "RAS" and case.channels == 1
    assert case.spacing == pytest.approx((0.8, 0.9, 2.0))
    assert case.label_voxels == {0: 960 - 27 - 18, 1: 27, 2: 18}
    assert case.label_volumes[1] == pytest.approx(27 * 0.8 * 0.9 * 2.0 / 1000)
    voxels = image_of(0)
    assert case.intensity[0]["minimum"] == voxels.min() and case.intensity[0]["maximum"] == voxels.max()
    assert case.intensity[0]["mean"] == pytest.approx(voxels.mean(), rel=1e-5)
    assert [case.section for case in report.cases] == ["training", "training", "unlabeled", "test"]
    assert report.errors == report.warnings == []


def test_foreground_intensities_are_those_within_the_label(sound):
    save(Path(sound["training"][0]["image"]), np.where(label_of() > 0, 500, image_of(0)).astype(np.float32))
    save(Path(sound["training"][1]["label"]), np.zeros((12, 10, 8), np.uint8))
    first, without, unlabelled, _ = check_data(sound, progress=False).cases
    assert first.foreground == [{"mean": 500, "deviation": 0, "low": 500, "high": 500}]
    assert without.foreground == unlabelled.foreground == []


def test_slabs_change_nothing(sound, monkeypatch):
    whole = check_data(sound, progress=False)
    monkeypatch.setattr(volumes_module, "SLAB_VOXELS", 12 * 10 * 3)
    sliced = check_data(sound, progress=False)
    assert [case.digest for case in sliced.cases] == [case.digest for case in whole.cases]
    assert [case.label_voxels for case in sliced.cases] == [case.label_voxels for case in whole.cases]
    assert [case.intensity for case in sliced.cases] == [case.intensity for case in whole.cases]
    assert [case.foreground for case in sliced.cases] == [case.foreground for case in whole.cases]


def truncate(path: str) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) * 2 // 3])


def damage(path: str) -> None:
    """Repack with one voxel changed and the old checksum: only a reader that goes to the end notices."""
    packed = Path(path).read_bytes()
    plain = bytearray(gzip.decompress(packed))
    plain[-1] ^= 1
    Path(path).write_bytes(gzip.compress(bytes(plain))[:-8] + packed[-8:])


BYTES = {
    "truncated": (truncate, "truncated or damaged .*Copy or download it again"),
    "bit flipped": (damage, "truncated or damaged .*CRC"),
    "empty": (lambda path: Path(path).write_bytes(b""), "0 bytes. Copy or download it again"),
    "zeros": (lambda path: Path(path).write_bytes(bytes(4000)), "holds zeros only"),
    "web page": (lambda path: Path(path).write_text("<!DOCTYPE html><html>log in</html>"), "a web page, not a scan"),
    "lfs": (lambda path: Path(path).write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "unpacked": (lambda path: Path(path).write_bytes(gzip.decompress(Path(path).read_bytes())), "without .gz"),
    "text": (lambda path: Path(path).write_bytes(gzip.compress(b"hello")), "cannot be read .*as NIfTI"),
    "dicom": (lambda path: Path(path).write_bytes(bytes(128) + b"DICM" + bytes(500)), "not compressed although named"),
    "folder": (lambda path: (Path(path).unlink(), Path(path).mkdir()), "a folder with no DICOM series"),
    "gone": (lambda path: Path(path).unlink(), "no such file"),
}


@pytest.mark.parametrize("role", ["image", "label"])
@pytest.mark.parametrize("kind", BYTES)
def test_unreadable_file(sound, kind, role):
    spoil, message = BYTES[kind]
    path = sound["training"][1][role]
    spoil(path)
    problem = the_error(sound)
    assert problem.startswith(path + ": ")
    assert re.search(message, problem), problem


def test_uncompressed_truncated(sound, tmp_path):
    sound["unlabeled"] = [{"image": save(tmp_path / "plain.nii", image_of(9))}]
    truncate(sound["unlabeled"][0]["image"])
    assert "plain.nii: its header claims 3840 bytes of voxels" in the_error(sound)


def test_compressed_but_named_nii(sound, tmp_path):
    path = tmp_path / "x.nii"
    path.write_bytes(Path(sound["unlabeled"][0]["image"]).read_bytes())
    sound["unlabeled"] = [{"image": str(path)}]
    assert "gzip-compressed although not named .gz. Add .gz" in the_error(sound)


IMAGES = {
    "nan": (lambda a: np.where(np.arange(a.size).reshape(a.shape) == 500, np.nan, a), "NaN or infinite"),
    "inf": (lambda a: np.where(np.arange(a.size).reshape(a.shape) == 500, -np.inf, a), "NaN or infinite"),
    "2D": (lambda a: a[:, :, 0], "2D, shape 12 x 10. Only 3D"),
    "4D": (lambda a: np.stack([a, a], -1), "2 channels .a 4D file.*the first case .*has 1"),
    "5D": (lambda a: np.zeros((4, 4, 4, 2, 3), np.float32), "5D"),
    "shape": (lambda a: a[:-1], r"shape \(12, 10, 8\), but its image has \(11, 10, 8\)"),
    "complex": (lambda a: a.astype(np.complex64), "complex numbers"),
    "rgb": (lambda a: np.zeros(a.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "a colour .RGB. image"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_image_that_cannot_be_used(sound, kind):
    change, message = IMAGES[kind]
    path = sound["training"][1]["image"]
    array = change(image_of(1))
    save(Path(path), array.astype(np.float32) if array.dtype == np.float64 else array)
    assert re.search(message, the_error(sound))


LABEL_ARRAYS = {
    "out of range": (
        lambda a: np.where(a == 2, 4, a).astype(np.uint8),
        "label values 4 in 18 voxels, but the classes are 0 background, 1 heart",
    ),
    "255": (
        lambda a: np.where(a == 1, 255, a).astype(np.uint8),
        "values 255 .*If 255 marks the structure, make the datalist with `dualseg split --values 0,255`",
    ),
    "negative": (lambda a: np.where(a == 1, np.int16(-1), a.astype(np.int16)), "label values -1 in 27 voxels"),
    "fractions": (lambda a: a.astype(np.float32) * 0.5, r"no whole numbers \(0.5\). Save it anew"),
    "image": (lambda a: image_of(1), "no whole numbers .*Is this the image, in the label's place"),
    "nan": (lambda a: np.where(a == 1, np.nan, a).astype(np.float32), "no whole numbers .nan"),
    "channels": (lambda a: np.stack([a, a, a], -1).astype(np.uint8), "a label of 3 channels"),
    "transposed": (lambda a: a.transpose(1, 0, 2), r"shape \(10, 12, 8\), but its image has \(12, 10, 8\)"),
}


@pytest.mark.parametrize("kind", LABEL_ARRAYS)
def test_label_that_cannot_be_used(sound, kind):
    change, message = LABEL_ARRAYS[kind]
    path = sound["test"][0]["label"]
    save(Path(path), change(label_of()))
    problem = the_error(sound)
    assert problem.startswith(path)
    assert re.search(message, problem), problem


def test_float_labels_of_whole_numbers_are_fine(sound):
    save(Path(sound["test"][0]["label"]), label_of().astype(np.float32))
    assert check_data(sound, progress=False).cases[-1].label_voxels[2] == 18


@pytest.mark.parametrize(("shift", "fine"), [(0.0, True), (0.05, True), (0.2, False), (-30.0, False)])
def test_label_shifted_against_its_image(sound, shift, fine):
    affine = AFFINE.copy()
    affine[0, 3] += shift
    save(Path(sound["training"][0]["label"]), label_of(), affine)
    if fine:
        check_data(sound, progress=False)
    else:
        assert f"another affine: up to {abs(shift):.3g} mm apart" in the_error(sound)


def test_label_of_other_spacing_or_flipped(sound):
    for affine in (np.diag([1.0, 1, 1, 1]), AFFINE @ np.diag([-1.0, 1, 1, 1])):
        save(Path(sound["training"][0]["label"]), label_of(), affine)
        assert "save it with the affine of its image; else resample it" in the_error(sound)


def test_affine_that_maps_nowhere(sound):
    path = Path(sound["unlabeled"][0]["image"])
    image = nibabel.Nifti1Image(image_of(2), None)
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    image.header["sform_code"] = 1
    image.header.set_data_dtype(np.float32)
    raw = image.header.binaryblock + bytes(4) + image_of(2).tobytes(order="F")
    path.write_bytes(gzip.compress(raw))
    assert "unusable geometry" in the_error(sound)


def test_an_axis_that_has_no_direction(sound):
    affine = np.diag([1e10, 1e-6, 2.0, 1.0])  # not singular, and yet the first two axes are the same
    affine[0, 1] = 1e10
    save(Path(sound["unlabeled"][0]["image"]), image_of(2), affine)
    assert "unusable geometry" in the_error(sound)


@pytest.mark.parametrize("suffix", ["nii", "nrrd", "mha", "h5"])
def test_changed_bytes_are_an_error_with_a_name_or_nothing_at_all(tmp_path, suffix):
    """No exception of a reader gets through, whatever its file's first bytes say."""
    path = tmp_path / f"scan.{suffix}"
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            file["image"] = image_of(0)
    else:
        save(tmp_path / "scan.nii", image_of(0))
        if suffix != "nii":
            itk.imwrite(itk.imread(str(tmp_path / "scan.nii")), str(path))
    sound_bytes, draw = path.read_bytes(), np.random.default_rng(0)
    datalist = {"labels": LABELS, "unlabeled": [{"image": f"{path}::image" if suffix == "h5" else str(path)}]}
    refused = 0
    for _ in range(150):
        content = bytearray(sound_bytes)
        for place in draw.integers(0, 400, draw.integers(1, 4)):
            content[place] = draw.integers(256)
        path.write_bytes(content)
        errors = inspect_data(datalist, progress=False, workers=1).errors
        assert all(error.startswith(str(path)) for error in errors)
        refused += bool(errors)
    assert refused > 10


def test_same_voxels_in_two_sections_are_a_leak(sound, tmp_path):
    copy = tmp_path / "renamed.nii"
    nibabel.save(nibabel.load(sound["training"][0]["image"]), copy)  # not the same bytes: not compressed
    sound["unlabeled"].append({"image": str(copy)})
    assert "renamed.nii" in the_error(sound) and "No case may be in two sections" in the_error(sound)


def test_warnings_do_not_stop(sound, tmp_path, caplog):
    save(Path(sound["training"][0]["label"]), np.zeros((12, 10, 8), np.uint8))
    save(Path(sound["unlabeled"][0]["image"]), np.full((12, 10, 8), 3.0, np.float32))
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(Path(sound["test"][0]["image"]).read_bytes())
    sound["test"].append({"image": str(copy), "label": save(tmp_path / "copy_label.nii.gz", label_of())})
    with caplog.at_level(logging.WARNING):
        report = check_data(sound, progress=False)
    expected = (
        "without foreground",
        "constant image, every voxel is 3",
        f"the same voxels as {sound['test'][0]['image']}",
    )
    assert all(text in warning for text, warning in zip(expected, report.warnings, strict=True))
    assert all(warning in caplog.text for warning in report.warnings)


def test_class_that_training_never_shows(sound):
    for case in sound["training"]:
        save(Path(case["label"]), np.minimum(label_of(), 1))
    assert check_data(sound, progress=False).warnings == [
        'class 2 (lung) is in no case of "training": it cannot be learned.'
    ]


def test_a_list_without_training_cases_can_be_inspected(sound):
    sound["training"] = []
    report = inspect_data(sound, progress=False)
    assert len(report.cases) == 2 and report.errors == report.warnings == []


def test_memory_does_not_grow_with_the_scan(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes_module, "SLAB_VOXELS", 64 * 64)
    path = save(tmp_path / "long.nii.gz", np.ones((64, 64, 1024), np.int16))
    nothing_else = {"labels": LABELS, "unlabeled": [{"image": path}]}
    inspect_data(nothing_else, progress=False)  # once before, so that imports and caches do not count
    tracemalloc.start()
    inspect_data(nothing_else, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 64 * 1024 * 2 / 4  # bytes: a quarter of the scan as it is stored


def test_labels_and_channels_of_the_network(sound):
    assert "classes are 0 background, 1 heart" in errors_of(sound, labels={0: "background", 1: "heart"})[0]
    problems = errors_of(sound, channels=2)
    assert len(problems) == 4 and "the network takes 2" in problems[0]


def test_several_files_are_several_channels(sound, tmp_path):
    for section in ("training", "unlabeled", "test"):
        for number, case in enumerate(sound[section]):
            second = save(tmp_path / f"{section}{number}_t2.nii.gz", image_of(50 + number + len(section)))
            case["image"] = [case["image"], second]
    report = check_data(sound, channels=2, progress=False)
    assert {case.channels for case in report.cases} == {2}
    assert len(report.cases[0].intensity) == 2
    save(Path(sound["test"][0]["image"][1]), image_of(3, (12, 10, 9)))
    assert "but its first channel has (12, 10, 8)" in the_error(sound)


def test_all_bad_files_in_one_error(sound):
    for section in ("training", "test"):
        for case in sound[section]:
            truncate(case["label"])
    with pytest.raises(DataError, match="^3 problems:") as caught:
        check_data(sound, progress=False)
    assert all(name in str(caught.value) for name in ("a_label", "b_label", "t_label"))


def test_inspection_reports_instead_of_raising(sound):
    truncate(sound["training"][0]["label"])
    report = inspect_data(sound, progress=False)
    assert len(report.errors) == 1 and report.cases[0].errors == report.errors
    assert report.as_dict()["cases"][3]["label_volumes"][1] == pytest.approx(27 * 1.44 / 1000)


def test_volumes_are_read_slab_by_slab(sound, monkeypatch):
    monkeypatch.setattr(volumes_module, "SLAB_VOXELS", 250)
    with open_volume(sound["training"][0]["image"]) as volume:
        slabs = list(volume.slabs())
    assert [slab.shape for slab in slabs] == [(12, 10, 2)] * 4
    assert (np.concatenate(slabs, axis=2) == image_of(0)).all()


def test_bar_is_shown_by_the_first_rank_only(sound, capsys, monkeypatch):
    check_data(sound)
    assert "Checking the data" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    check_data(sound)
    assert capsys.readouterr().err == ""


def _check_as_rank(rank: int, datalist, folder: str) -> None:
    os.environ["RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        check_data(datalist, progress=False)
        outcome = "passed"
    except DataError as error:
        outcome = str(error)
    Path(folder, f"rank{rank}.txt").write_text(outcome)
    dist.destroy_process_group()


@pytest.mark.parametrize("spoiled", [True, False])
def test_every_rank_fails_or_none(sound, tmp_path, spoiled):
    if spoiled:
        truncate(sound["test"][0]["image"])
    mp.start_processes(_check_as_rank, (sound, str(tmp_path)), nprocs=2, start_method="fork")
    first, second = ((tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1))
    assert first == second and ("t.nii.gz: truncated" in first) == spoiled and (first == "passed") != spoiled


def test_real_hippocampus_scans(shared_data):
    report = check_data(load_datalist(shared_data / "hippocampus" / "datalist_8.json"), progress=False)
    assert len(report.cases) == 200 and report.errors == []
    assert all(case.label_voxels[1] and case.label_voxels[2] for case in report.cases if case.label)


def test_real_left_atrium_scans_in_time(shared_data):
    datalist = load_datalist(shared_data / "left_atrium" / "datalist_8.json")
    start = time.process_time()
    report = check_data(datalist, progress=False)
    assert time.process_time() - start < 15
    assert {case.spacing for case in report.cases} == {(0.625, 0.625, 0.625)}
    assert len(report.cases) == 80 and report.errors == []


def test_memory_of_hdf5_does_not_grow_with_the_scan(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes_module, "SLAB_VOXELS", 64 * 64)
    path = tmp_path / "long.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=np.ones((64, 64, 1024), np.int16), chunks=(64, 64, 8), compression="gzip")
    nothing_else = {"labels": LABELS, "unlabeled": [{"image": f"{path}::image"}]}
    inspect_data(nothing_else, progress=False)  # once before, so that imports and caches do not count
    tracemalloc.start()
    inspect_data(nothing_else, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 64 * 1024 * 2 / 4  # bytes: a quarter of the scan as it is stored


def as_nrrd(sound, tmp_path) -> str:
    image = sound["unlabeled"][0]["image"]
    itk.imwrite(itk.imread(image), str(tmp_path / "u.nrrd"))
    sound["unlabeled"] = [{"image": str(tmp_path / "u.nrrd")}]
    return str(tmp_path / "u.nrrd")


def test_a_scan_that_the_machine_cannot_hold_is_refused(sound, tmp_path, monkeypatch):
    path, size = as_nrrd(sound, tmp_path), 12 * 10 * 8 * 4
    monkeypatch.setattr(volumes_module, "physical_memory", lambda: 4 * size)
    assert check_data(sound, progress=False).errors == []  # NIfTI files of the same size are streamed
    monkeypatch.setattr(volumes_module, "physical_memory", lambda: 4 * size - 1)
    problem = the_error(sound)
    assert problem.startswith(f"{path}: 0.0 GB of voxels, too much for a machine") and "Write it as NIfTI" in problem


def test_large_scans_of_other_formats_are_read_one_at_a_time(sound, tmp_path, monkeypatch):
    nrrd = as_nrrd(sound, tmp_path)
    path = nrrd.replace(".nrrd", ".mha")  # NRRD files are always read one at a time
    itk.imwrite(itk.imread(nrrd), path)
    held, most = [], []
    load = volumes_module.LoadImage

    class Watched(load):
        def __call__(self, *arguments, **options):
            held.append(1)
            most.append(len(held))
            time.sleep(0.05)
            result = super().__call__(*arguments, **options)
            held.pop()
            return result

    monkeypatch.setattr(volumes_module, "LoadImage", Watched)
    copies = {"labels": LABELS, "unlabeled": [{"image": path}] * 6}
    inspect_data(copies, progress=False, workers=6)
    assert max(most) > 1
    most.clear()
    monkeypatch.setattr(volumes_module, "_LARGE", 0)
    inspect_data(copies, progress=False, workers=6)
    assert max(most) == 1


def test_dicom_size_is_that_of_all_slices(shared_data, monkeypatch):
    folder = shared_data / "dicom" / "hippocampus_series"
    with open_volume(folder) as volume:
        size = int(np.prod(volume.shape)) * next(volume.slabs()).dtype.itemsize
    monkeypatch.setattr(volumes_module, "physical_memory", lambda: 3 * size)
    with pytest.raises(DataError, match="hippocampus_series: .* GB of voxels"), open_volume(folder):
        pass
