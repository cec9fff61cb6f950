# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import resource
import shutil
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.apps import DecathlonDataset
from monai.transforms import LoadImage
from raw_scans import atrial_case, brain_case, pancreas_case, write_slice

from scripts.cli import main
from scripts.data import DataError, check_data, load_datalist, open_volume, prepare_decathlon, prepare_release
from scripts.data.transforms.benchmark_crop import crop_to_label


def prepare(dataset, source, output, **options):
    return prepare_release(dataset, source, output, progress=False, **options)


def prepared(output: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, label = (nibabel.load(output / role / f"{name}.nii.gz") for role in ("images", "labels"))
    assert np.array_equal(image.affine, label.affine) and label.get_data_dtype() == np.uint8
    return np.asarray(image.dataobj), np.asarray(label.dataobj), image.affine


def error_of(*arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        prepare(*arguments, **options)
    return str(caught.value)


# Left atrium


def test_atrium_stays_whole_with_its_geometry(tmp_path):
    image, label = atrial_case(tmp_path / "raw" / "Training Set" / "06SR5")
    prepare("left_atrium", tmp_path / "raw", tmp_path / "out")
    found, mask, affine = prepared(tmp_path / "out", "06SR5")
    assert found.dtype == np.uint8 and (found == image).all() and (mask == label).all()
    assert affine == pytest.approx(LoadImage(image_only=True)(tmp_path / "raw/Training Set/06SR5/lgemri.nrrd").affine)
    assert np.diag(affine)[:3].tolist() == [-0.625, -0.625, 0.625]  # the file's axes run to L, P, S


def test_atrium_as_in_the_benchmark(tmp_path):
    image, label = atrial_case(tmp_path / "raw" / "06SR5", shape=(260, 250, 10))
    prepare("left_atrium", tmp_path / "raw", tmp_path / "out", benchmark=True)
    found, mask, affine = prepared(tmp_path / "out", "06SR5")
    assert affine.tolist() == np.diag([0.625, 0.625, 0.625, 1]).tolist()
    assert mask.sum() == label.sum() and mask.shape[2] == 10
    start = [int(np.flatnonzero(full.any(axis=axes))[0]) for full in (label,) for axes in ((1, 2), (0, 2))]
    inner = [int(np.flatnonzero(mask.any(axis=axes))[0]) for axes in ((1, 2), (0, 2))]
    low = [outer - inside for outer, inside in zip(start, inner, strict=True)]
    box = tuple(slice(first, first + size) for first, size in zip(low, mask.shape, strict=False))
    whole = (image - image.mean()) / image.std()  # of the scan, not of the box
    assert found == pytest.approx(whole[box], abs=1e-5)
    for axis in (0, 1):
        line = np.flatnonzero(label.any(axis=tuple(other for other in range(3) if other != axis)))
        missing = (112 - (line[-1] - line[0])) // 2
        assert 10 <= line[0] - box[axis].start - missing < 20
        assert 10 <= box[axis].stop - line[-1] - missing < 20
    before = found.copy()
    shutil.rmtree(tmp_path / "out")
    prepare("left_atrium", tmp_path / "raw", tmp_path / "out", benchmark=True)
    assert np.array_equal(prepared(tmp_path / "out", "06SR5")[0], before)  # the margins do not change


def test_the_crop_is_the_one_of_the_published_scans(shared_data):
    """The box's rule, read off 80 published scans: with their margins, the same boxes come out of larger scans."""
    around = 40
    for path in sorted((shared_data / "left_atrium" / "labels").iterdir()):
        published = np.asarray(nibabel.load(path).dataobj)
        margins = []
        for axis in (0, 1):
            line = np.flatnonzero(published.any(axis=tuple(other for other in range(3) if other != axis)))
            missing = max(112 - (line[-1] - line[0]), 0) // 2
            margins.append((line[0] - missing, published.shape[axis] - line[-1] - missing))
        assert all(10 <= margin < 20 for pair in margins for margin in pair), path.name
        whole = np.pad(published, ((around, around), (around, around), (0, 0)))
        _, label = crop_to_label(whole, whole, (112, 112), margins)
        assert np.array_equal(label, published)


# Pancreas


@pytest.mark.parametrize("nbia", [True, False])
@pytest.mark.parametrize("head_first", [True, False])
def test_pancreas_labels_meet_their_slices(tmp_path, head_first, nbia):
    image, label = pancreas_case(tmp_path / "raw", 7, head_first=head_first, nbia=nbia)
    prepare("pancreas", tmp_path / "raw", tmp_path / "out")
    found, mask, affine = prepared(tmp_path / "out", "image0007")
    assert np.array_equal(mask, found == 90) and mask.sum() == label.sum()
    # voxels may be stored from the feet or from the head; where they lie in the patient is fixed
    flip = -1 if head_first else 1
    assert np.array_equal(found[:, :, ::flip], image)
    for column, row, height in ((0, 0, 0), (29, 25, 11), (17, 4, 2)):
        stored = [column, row, 11 - height if head_first else height, 1]
        assert (affine @ stored)[:3] == pytest.approx([20 - 0.7 * column, 30 - 0.8 * row, 1.5 * height], abs=1e-4)


def test_pancreas_as_in_the_benchmark(tmp_path):
    """Against SimpleITK, which the published preparation resamples with."""
    sitk = pytest.importorskip("SimpleITK")
    image, label = pancreas_case(tmp_path / "raw", 1, shape=(200, 190, 20), head_first=False)
    prepare("pancreas", tmp_path / "raw", tmp_path / "out", benchmark=True)
    found, mask, affine = prepared(tmp_path / "out", "image0001")
    expected = []
    for voxels, interpolator in ((image.astype(np.float32), sitk.sitkBSpline), (label, sitk.sitkNearestNeighbor)):
        source = sitk.GetImageFromArray(voxels.T)
        source.SetSpacing([0.7, 0.8, 1.5])
        size = [int(n * s) for n, s in zip(voxels.shape, (0.7, 0.8, 1.5), strict=True)]
        resampled = sitk.Resample(source, size, sitk.Transform(), interpolator, [0.0] * 3, [1.0] * 3)
        expected.append(sitk.GetArrayFromImage(resampled).T)
    resampled, structure = np.clip(expected[0], -125, 275), expected[1] > 0
    box = []
    for axes in ((1, 2), (0, 2)):
        line = np.flatnonzero(structure.any(axis=axes))
        missing = max(96 - (line[-1] - line[0]), 0) // 2
        box.append(slice(max(line[0] - 25 - missing, 0), line[-1] + 25 + missing))
    resampled, structure = resampled[tuple(box)], structure[tuple(box)]
    assert affine.tolist() == np.eye(4).tolist() and found.shape == resampled.shape
    assert np.mean(mask != structure) < 1e-3  # ties between two voxels go either way
    inside = (slice(None), slice(None), slice(None, -2))  # behind the last slice both extrapolate
    z_scored = (resampled - resampled.mean()) / resampled.std()
    assert np.abs(found - z_scored)[inside].max() < 0.02


def test_copies_of_a_patient_are_left_out_of_the_honest_preparation(tmp_path, caplog):
    for number in (2, 25):
        pancreas_case(tmp_path / "raw", number, shape=(12, 10, 4))
    prepare("pancreas", tmp_path / "raw", tmp_path / "whole")
    assert [path.name for path in (tmp_path / "whole" / "images").iterdir()] == ["image0002.nii.gz"]
    assert "image0025 is left out: it shows the same scan as another case" in caplog.text
    prepare("pancreas", tmp_path / "raw", tmp_path / "benchmark", benchmark=True)
    assert len(list((tmp_path / "benchmark" / "images").iterdir())) == 2
    assert "cropped around their ground truth" in caplog.text


def test_pancreas_releases_that_cannot_be_used(tmp_path):
    image, _ = pancreas_case(tmp_path / "raw", 3, shape=(12, 10, 6))
    (folder,) = {path.parent for path in (tmp_path / "raw").rglob("*.dcm")}
    label = next((tmp_path / "raw").rglob("label0003.nii.gz"))
    sound = label.read_bytes()
    air = (image == -1000)[:, :, ::-1].astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(air, np.eye(4)), label)
    assert "label0003.nii.gz: most of its voxels are no soft tissue" in error_of("pancreas", tmp_path / "raw", tmp_path)
    label.unlink()
    assert "label0003.nii.gz: no such file" in error_of("pancreas", tmp_path / "raw", tmp_path)
    label.write_bytes(sound)
    write_slice(folder / "1-002.dcm", image[:, :, 4].T, 9, 6.0)
    message = error_of("pancreas", tmp_path / "raw", tmp_path)
    assert f"{folder}: instance numbers and slice positions are in different orders" in message
    (folder / "1-002.dcm").unlink()
    assert f"{folder}: unequal gaps between slices: 3 mm" in error_of("pancreas", tmp_path / "raw", tmp_path)
    (folder / "1-001.dcm").unlink()
    assert "label0003.nii.gz: shape (12, 10, 6), but its image has (12, 10, 4)" in error_of(
        "pancreas", tmp_path / "raw", tmp_path
    )
    write_slice(folder.parent / "second" / "1.dcm", image[:, :, 0].T, 1, 0.0, series="9.9")
    message = error_of("pancreas", tmp_path / "raw", tmp_path)
    assert "PANCREAS_0003: a folder with 2 DICOM series in it" in message


# BraTS


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_brain_stays_whole_and_the_tumour_is_one(tmp_path, suffix):
    image, label = brain_case(tmp_path / "raw", "BraTS19_2013_1_1", grade="LGG", suffix=suffix)
    prepare("brats2019", tmp_path / "raw", tmp_path / "out")
    found, mask, affine = prepared(tmp_path / "out", "BraTS19_2013_1_1")
    assert found.dtype == np.int16 and np.array_equal(found, image) and np.array_equal(mask, label)
    assert affine[:, 3].tolist() == [0, 239, 0, 1]


def test_brain_as_in_the_benchmark(tmp_path):
    image, label = brain_case(tmp_path / "raw", "BraTS19_CBICA_AAB_1")
    prepare("brats2019", tmp_path / "raw", tmp_path / "out", benchmark=True)
    found, mask, affine = prepared(tmp_path / "out", "BraTS19_CBICA_AAB_1")
    box = (slice(4, 20), slice(3, 19), slice(2, 15))  # without the brain's last planes, 20, 19 and 15
    crop = image[box].astype(np.float64)
    values, counts = np.unique(crop, return_counts=True)
    crop = np.minimum(crop, values[np.cumsum(counts) / crop.size >= 0.999][0])
    brain = crop[crop > 0]
    assert found == pytest.approx((crop - brain.mean()) / brain.std(), abs=1e-4)
    assert np.array_equal(mask, label[box])
    assert (affine @ [0, 0, 0, 1]).tolist() == [-4, 236, 2, 1]


# Any release


def test_the_benchmarks_splits_come_out_exactly(tmp_path):
    """80 / 20 with 4, 8, 16 labelled; 62 / 20 with 6, 12; 250 / 25 / 60 with 25, 50; in the order of the lists."""
    rng = np.random.default_rng(0)
    atria, brains = [f"ATRIUM{n:03d}" for n in range(100)], [f"BraTS19_TCIA_{n}_1" for n in range(335)]
    numbers = range(1, 83)
    atrial_case(tmp_path / "a" / atria[0], shape=(4, 4, 3))
    pancreas_case(tmp_path / "p", 1, shape=(16, 14, 6))
    brain_case(tmp_path / "b", brains[0])
    for name in atria[1:]:
        shutil.copytree(tmp_path / "a" / atria[0], tmp_path / "a" / name)
    first = next((tmp_path / "p").rglob("PANCREAS_0001"))
    for number in list(numbers)[1:]:
        shutil.copytree(first, first.with_name(f"PANCREAS_{number:04d}"))
        label = next((tmp_path / "p").rglob("label0001.nii.gz"))
        shutil.copy(label, label.with_name(f"label{number:04d}.nii.gz"))
    folder = next((tmp_path / "b").rglob(brains[0]))
    for name in brains[1:]:
        (folder.with_name(name)).mkdir()
        for role in ("flair", "seg"):
            shutil.copy(folder / f"{brains[0]}_{role}.nii.gz", folder.with_name(name) / f"{name}_{role}.nii.gz")
    sources = {
        "left_atrium": ("a", atria, (80, 0, 20), (4, 8, 16), "{}", ".list"),
        "pancreas": ("p", [f"image{n:04d}" for n in numbers], (62, 0, 20), (6, 12), "{}_norm.h5", ".list"),
        "brats2019": ("b", brains, (250, 25, 60), (25, 50), "{},somewhere", ".txt"),
    }
    for dataset, (source, names, sizes, labeled, line, suffix) in sources.items():
        order = [str(name) for name in rng.permutation(names)]
        parts = np.split(order, np.cumsum(sizes)[:2])
        (tmp_path / dataset).mkdir()
        for part, name in zip(parts, ("train", "val", "test"), strict=True):
            if len(part):
                text = "".join(line.format(case) + "\n" for case in part)
                (tmp_path / dataset / f"{name}{suffix}").write_text(text)
        # the pancreas' whole preparation leaves two copies out
        options = {"lists": tmp_path / dataset, "benchmark": dataset == "pancreas"}
        written = prepare(dataset, tmp_path / source, tmp_path / f"{source}_out", **options)
        assert [Path(path).name for path in written] == [f"datalist_{count}.json" for count in labeled]
        for path, count in zip(written, labeled, strict=True):
            datalist = load_datalist(path)
            found = {
                section: [Path(case["image"]).name.removesuffix(".nii.gz") for case in datalist[section]]
                for section in ("training", "unlabeled", "validation", "test")
            }
            assert found["training"] + found["unlabeled"] == list(parts[0]) and len(found["training"]) == count
            assert found["validation"] == list(parts[1]) and found["test"] == list(parts[2])
            assert all("label" not in case for case in datalist["unlabeled"])


def test_lists_without_the_withdrawn_copies(tmp_path, caplog):
    """Today's release of the pancreas has 80 of the benchmark's 82 cases."""
    for number in (1, 2, 3):
        pancreas_case(tmp_path / "raw", number, shape=(12, 10, 4))
    (tmp_path / "raw" / "train.list").write_text("image0003\nimage0070\nimage0001\n")
    (tmp_path / "raw" / "test.list").write_text("image0025\nimage0002\n")
    prepare("pancreas", tmp_path / "raw", tmp_path / "out")
    assert (tmp_path / "out" / "train.list").read_text() == "image0003\nimage0001\n"
    assert "image0070 is left out" in caplog.text and "image0025 is left out" in caplog.text
    (tmp_path / "raw" / "test.list").write_text("image0044\n")
    message = error_of("pancreas", tmp_path / "raw", tmp_path / "out")
    assert "test.list: image0044 is not in the release" in message


def times(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}


def test_an_interrupted_preparation_continues(tmp_path, monkeypatch):
    for seed, name in enumerate("abc"):
        atrial_case(tmp_path / "raw" / name, seed=seed)
    save, calls = nibabel.save, []

    def interrupted(image, path):
        calls.append(path)
        save(image, path)
        if len(calls) == 4:  # the image of b: written, not yet in its place
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nibabel.save", interrupted)
        prepare("left_atrium", tmp_path / "raw", tmp_path / "out")
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert files == ["images/a.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz"]
    first = times(tmp_path / "out" / "images")
    prepare("left_atrium", tmp_path / "raw", tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3
    assert times(tmp_path / "out" / "images")["a.nii.gz"] == first["a.nii.gz"]


def test_a_damaged_case_is_named_after_the_sound_ones_are_written(tmp_path):
    for seed, name in enumerate("abc"):
        atrial_case(tmp_path / "raw" / name, seed=seed)
    (tmp_path / "raw" / "b" / "laendo.nrrd").write_bytes(b"")
    message = error_of("left_atrium", tmp_path / "raw", tmp_path / "out")
    assert f"{tmp_path / 'raw' / 'b' / 'laendo.nrrd'}: 0 bytes. Copy or download it again." in message
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_two_preparations_never_get_mixed(tmp_path):
    atrial_case(tmp_path / "raw" / "a", shape=(40, 40, 6))
    prepare("left_atrium", tmp_path / "raw", tmp_path / "out")
    message = error_of("left_atrium", tmp_path / "raw", tmp_path / "out", benchmark=True)
    assert f"{tmp_path / 'out'}: holds" in message and "Name another folder" in message


@pytest.mark.parametrize(
    ("dataset", "source", "message"),
    [
        ("left_atrium", "nowhere", "nowhere: no such folder. Name the folder of the unpacked release with --source"),
        (
            "left_atrium",
            "",
            "no case of 2018 Atrial Segmentation Challenge in it. Looked below it for CASE/lgemri.nrrd",
        ),
        ("pancreas", "", "no case of NIH Pancreas-CT"),
        ("brats2019", "", "no case of BraTS 2019"),
        (
            "heart",
            "",
            "heart: no such data set. Name one of left_atrium, pancreas, brats2019, acdc or decathlon:Task04",
        ),
    ],
)
def test_nothing_to_prepare(tmp_path, dataset, source, message):
    assert message in error_of(dataset, tmp_path / source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_labelled_voxel_there_is_nothing_to_crop_to(tmp_path):
    image, _ = atrial_case(tmp_path / "raw" / "a")
    from raw_scans import write_nrrd

    write_nrrd(tmp_path / "raw" / "a" / "laendo.nrrd", np.zeros_like(image))
    message = error_of("left_atrium", tmp_path / "raw", tmp_path / "out", benchmark=True)
    assert "laendo.nrrd: zeros only, so there is nothing to crop to" in message


def command(*words) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return caught.value.code


def test_a_full_disk_leaves_no_half_file(tmp_path, capsys):
    atrial_case(tmp_path / "raw" / "a", shape=(40, 40, 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # bytes: writing more fails, as on a full disk
    try:
        code = command("prepare", "left_atrium", tmp_path / "out", "--source", tmp_path / "raw")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert code == 1 and "a.nii.gz: cannot be written (File too large)" in error and "Make room, or" in error
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert set(left) <= {"preparation.json", "a.nii.gz"}
    assert not (tmp_path / "out" / "images" / "a.nii.gz").exists()


def test_by_command_line_and_what_is_prepared_is_sound(tmp_path, capsys):
    for seed, name in enumerate("abcdef"):
        brain_case(tmp_path / "raw", f"BraTS19_{name}", seed=seed)
    assert command("prepare", "brats2019", tmp_path / "out", f"--source={tmp_path / 'raw'}") == 0
    hint = f'next: dualseg split {tmp_path / "out"} --labeled N --test N --names "background,whole tumour"'
    assert hint in capsys.readouterr().out
    assert command("split", tmp_path / "out", "--labeled=2", "--test=2", "--names=background,tumour") == 0
    report = check_data(load_datalist(tmp_path / "out" / "datalist.json"), progress=False)
    assert len(report.cases) == 6 and report.warnings == []
    assert command("prepare", "brats2019", tmp_path / "out") == 1
    assert "must be downloaded by you, under its terms. Name its folder with --source" in capsys.readouterr().err


# Decathlon


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Task04 as the server has it, small, at a file:// address."""
    folder = tmp_path / "server" / "Task04_Hippocampus"
    for role in ("imagesTr", "labelsTr"):
        (folder / role).mkdir(parents=True)
        for number in (1, 3):
            voxels = np.full((6, 5, 4), number, np.uint8) if role == "imagesTr" else np.eye(6, 5, dtype=np.uint8)
            voxels = voxels if voxels.ndim == 3 else np.repeat(voxels[..., None], 4, axis=2)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / role / f"hippocampus_{number:03d}.nii.gz")
    entries = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in ("hippocampus_001.nii.gz",)]
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior"}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(content))
    path = tmp_path / "server" / "Task04_Hippocampus.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "Task04_Hippocampus")
    monkeypatch.setitem(DecathlonDataset.resource, "Task04_Hippocampus", path.as_uri())
    monkeypatch.setitem(DecathlonDataset.md5, "Task04_Hippocampus", hashlib.md5(path.read_bytes()).hexdigest())
    return path


@pytest.mark.parametrize("local", [None, "file", "folder"])
def test_a_decathlon_task_is_fetched_once_and_can_be_split(archive, tmp_path, capsys, local):
    source = {None: [], "file": ["--source", archive], "folder": ["--source", archive.parent]}[local]
    assert command("prepare", "decathlon:Task04", tmp_path / "out", *source) == 0
    folder = tmp_path / "out" / "Task04_Hippocampus"
    assert f"next: dualseg split {folder}" in capsys.readouterr().out
    before = times(folder)
    archive.unlink()
    assert command("prepare", "decathlon:Task04_Hippocampus", tmp_path / "out") == 0
    assert times(folder) == before and len(before) == 4
    assert command("split", folder) == 0
    assert load_datalist(folder / "datalist.json")["labels"] == {0: "background", 1: "Anterior"}


def test_a_download_that_fails_is_one_message_and_leaves_nothing(archive, tmp_path, capsys):
    archive.write_bytes(archive.read_bytes()[:-3000])
    assert command("prepare", "decathlon:Task04", tmp_path / "out") == 1
    assert "Task04_Hippocampus.tar: not the archive of Task04_Hippocampus (MD5 sum)" in capsys.readouterr().err
    archive.unlink()
    assert command("prepare", "decathlon:Task04", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "Task04_Hippocampus.tar: cannot be downloaded" in error and "name it with --source" in error
    assert "Traceback" not in error and list((tmp_path / "out").rglob("*")) == []


def test_an_archive_that_cannot_be_unpacked(archive, tmp_path, monkeypatch):
    archive.write_bytes(b"\x01" * 3000)
    monkeypatch.setitem(DecathlonDataset.md5, "Task04_Hippocampus", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="Task04_Hippocampus.tar: cannot be unpacked"):
        prepare_decathlon("Task04", tmp_path / "out", archive, progress=False)
    assert not (tmp_path / "out" / "Task04_Hippocampus").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decathlon:Task11", "OUT"], "Task11: no task of the Decathlon. Name one of Task01_BrainTumour"),
        (["decathlon:Task04", "OUT", "--source=/nowhere.tar"], "/nowhere.tar: no such file. Name the archive"),
        (["decathlon:Task04", "OUT", "--benchmark"], "has no benchmark preparation"),
    ],
)
def test_decathlon_wishes_that_make_no_sense(tmp_path, capsys, arguments, message):
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    assert command("prepare", *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_its_contents_is_not_taken_for_the_task(archive, tmp_path):
    (tmp_path / "out" / "Task04_Hippocampus").mkdir(parents=True)
    with pytest.raises(DataError, match="Task04_Hippocampus: is there, but without dataset.json. Remove it"):
        prepare_decathlon("Task04", tmp_path / "out", progress=False)


def test_prepared_dicom_reads_back_with_the_geometry_of_the_series(tmp_path):
    pancreas_case(tmp_path / "raw", 4, head_first=False)
    (folder,) = {path.parent for path in (tmp_path / "raw").rglob("*.dcm")}
    prepare("pancreas", tmp_path / "raw", tmp_path / "out")
    with open_volume(folder) as series, open_volume(tmp_path / "out" / "images" / "image0004.nii.gz") as nifti:
        assert nifti.shape == series.shape and nifti.affine == pytest.approx(series.affine, abs=1e-5)


# ACDC


def cardiac_patient(root: Path, number: int, systole: int, part: str = "training") -> None:
    """A patient's folder as released: the whole cine, two frames and their labels, Info.cfg."""
    name = f"patient{number:03d}"
    folder = root / "ACDC" / "database" / part / name
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text(f"ED: 1\nES: {systole}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    affine = np.diag([1.5, 1.5, 10.0, 1.0])
    cine = np.random.default_rng(number).integers(0, 255, (6, 5, 3, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(cine, affine), folder / f"{name}_4d.nii.gz")
    for place, frame in enumerate((1, systole)):
        nibabel.save(nibabel.Nifti1Image(cine[..., place], affine), folder / f"{name}_frame{frame:02d}.nii.gz")
        label = (np.arange(90).reshape(6, 5, 3) + number + place) % 4
        nibabel.save(
            nibabel.Nifti1Image(label.astype(np.float32), affine), folder / f"{name}_frame{frame:02d}_gt.nii.gz"
        )


@pytest.mark.parametrize("own_test", [False, True])
def test_acdc_keeps_each_patient_in_one_section(tmp_path, own_test):
    for number in range(1, 11):
        cardiac_patient(tmp_path / "raw", number, 8 + number, "testing" if own_test and number > 8 else "training")
    datalists = prepare("acdc", tmp_path / "raw", tmp_path / "out")
    image, label, affine = prepared(tmp_path / "out", "patient003_frame11")
    cine = np.asarray(nibabel.load(next((tmp_path / "raw").rglob("patient003_4d.nii.gz"))).dataobj)
    assert (image == cine[..., 1]).all() and np.diag(affine).tolist() == [1.5, 1.5, 10, 1]
    assert (label == (np.arange(90).reshape(6, 5, 3) + 4) % 4).all()
    assert [Path(path).name for path in datalists] == ["datalist_3.json", "datalist_7.json"]
    for path, labelled in zip(datalists, (3, 7), strict=True):
        datalist = load_datalist(path)
        sections = ("training", "unlabeled", "validation", "test")
        patients = [{Path(case["image"]).name[:10] for case in datalist[section]} for section in sections]
        assert [len(found) for found in patients] == [labelled, 7 - labelled, 1, 2]
        assert len(set.union(*patients)) == 10 and sum(len(datalist[section]) for section in sections) == 20
        assert not own_test or patients[3] == {"patient009", "patient010"}
    assert datalist["labels"][2] == "myocardium"


def test_acdc_that_cannot_be_used(tmp_path):
    cardiac_patient(tmp_path / "raw", 1, 9)
    info = next((tmp_path / "raw").rglob("Info.cfg"))
    assert "has no benchmark preparation" in error_of("acdc", tmp_path / "raw", tmp_path / "out", benchmark=True)
    info.write_text("ED: 1\nES: 12\n")
    assert "there is no patient001_frame12.nii.gz" in error_of("acdc", tmp_path / "raw", tmp_path / "out")
    info.write_text("ED 1")
    assert "Info.cfg: does not name the frames ED and ES" in error_of("acdc", tmp_path / "raw", tmp_path / "out")
