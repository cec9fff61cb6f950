# SPDX-License-Identifier: Apache-2.0
"""What a user typed becomes files, or one line that says what to type."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data import (
    DataError,
    check_patch_size,
    claim_folder,
    find_datalist,
    find_images,
    find_weights,
    prediction_name,
    scans_to_segment,
)
from scripts.data.io.formats.nifti import MARK, save_nifti


def test_a_datalist_is_found_in_its_folder(tmp_path):
    (tmp_path / "datalist.json").write_text("{}")
    assert find_datalist(str(tmp_path), "datalist.json") == str(tmp_path / "datalist.json")


@pytest.mark.parametrize("folder", [None, ""])
def test_no_dataset_dir_is_an_error_not_a_default(folder):
    with pytest.raises(DataError, match="Add --dataset_dir FOLDER, the folder that holds datalist_8.json"):
        find_datalist(folder, "datalist_8.json")


def test_a_missing_folder_and_a_missing_datalist_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder. Correct --dataset_dir"):
        find_datalist(str(tmp_path / "nowhere"), "datalist.json")
    (tmp_path / "datalist_4.json").write_text("{}")
    with pytest.raises(DataError, match="datalist.json: no such datalist; the folder has datalist_4.json"):
        find_datalist(str(tmp_path), "datalist.json")


def test_images_are_scans_and_dicom_folders_sorted_by_name(tmp_path):
    for name in ("c.nrrd", "a.nii.gz", "b.MHA", "notes.txt", ".hidden", "._a.nii.gz"):
        (tmp_path / name).write_text("")
    for folder, file in (("series", "1.dcm"), ("empty", "readme.md")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("")
    found = [case["image"] for case in find_images(str(tmp_path))]
    assert found == [str(tmp_path / name) for name in ("a.nii.gz", "b.MHA", "c.nrrd", "series")]


def test_benchmark_files_are_scans_too(tmp_path):
    (tmp_path / "CASE").mkdir()
    for name in ("CASE/mri_norm2.h5", "image0001_norm.h5"):
        (tmp_path / name).write_text("")
    found = [case["image"] for case in find_images(str(tmp_path))]
    assert found == [f"{tmp_path}/CASE/mri_norm2.h5::image", f"{tmp_path}/image0001_norm.h5::image"]
    assert find_images(f"{tmp_path}/CASE/mri_norm2.h5") == [{"image": found[0]}]
    assert [prediction_name(image) for image in found] == ["CASE", "image0001_norm"]


def test_channels_in_several_files_are_one_scan(tmp_path):
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_2019_0000.mha", "b_2019_0001.mha", "both.nii.gz"):
        (tmp_path / name).write_text("")
    found = [case["image"] for case in find_images(str(tmp_path), channels=2)]
    assert found == [
        [str(tmp_path / "a_0000.nii.gz"), str(tmp_path / "a_0001.nii.gz")],
        [str(tmp_path / "b_2019_0000.mha"), str(tmp_path / "b_2019_0001.mha")],
        str(tmp_path / "both.nii.gz"),
    ]
    assert prediction_name(found[0][0]) == "a" and prediction_name(found[1][0]) == "b_2019"
    (tmp_path / "a_0001.nii.gz").unlink()
    with pytest.raises(DataError, match="a_0001.nii.gz: no such file; the network takes 2 channels"):
        find_images(str(tmp_path), channels=2)
    (tmp_path / "a_0000.nii.gz").rename(tmp_path / "a_0001.nii.gz")
    with pytest.raises(DataError, match="a_0001.nii.gz: a channel without its first one, named _0000"):
        find_images(str(tmp_path), channels=2)


@pytest.mark.parametrize("names", [("a.nii.gz", "a.nrrd"), ("a.mha", "a_0000.mha"), ("a.h5", "a.nii")])
def test_results_never_replace_each_other(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="its result would replace that of .* Rename one of them"):
        find_images(str(tmp_path))


def test_a_dot_in_the_name_of_a_series_is_no_suffix(tmp_path):
    for folder in ("patient.1", "patient.2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.dcm").write_text("")
    names = [prediction_name(case["image"]) for case in find_images(str(tmp_path))]
    assert names == ["patient.1", "patient.2"]


def test_a_folder_for_results_is_made_or_refused_before_any_work(tmp_path):
    assert claim_folder(str(tmp_path / "a" / "b")) == str(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/out: cannot be written to .Not a directory.. Name another --output_dir"):
        claim_folder(str(tmp_path / "file" / "out"))


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(DataError, match="cannot be written to .Read-only file system."):
        claim_folder(str(tmp_path))


def test_one_file_is_taken_as_it_is(tmp_path):
    file = tmp_path / "scan.img"
    file.write_text("")
    assert find_images(str(file)) == [{"image": str(file)}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "No images given. Add --dataset_dir FOLDER"),
        (lambda folder: folder / "nowhere", "nowhere: no such folder"),
        (lambda folder: folder, "no scan in it"),
    ],
)
def test_no_images_is_an_error_with_a_remedy(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(DataError, match=message):
        find_images(None if path is None else str(path))


def test_missing_weights_are_an_error_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match="model.pt: no such model. .* give its path as --ckpt_path"):
        find_weights(str(tmp_path / "model.pt"))


def test_a_patch_that_a_network_cannot_take_is_refused_with_one_that_fits():
    check_patch_size([32, 64, 32], 16, 32)
    with pytest.raises(DataError, match=r"\[32, 48, 20\].*multiples of 32.*\[32, 64, 32\]"):
        check_patch_size([32, 48, 20], 16, 32)


def end_with(error):
    program = (
        "from scripts.data import DataError, report_data_errors_briefly\n"
        "report_data_errors_briefly(); report_data_errors_briefly()\n"
        f"try:\n    raise {error}\nexcept Exception as e:\n    raise RuntimeError('Failed to instantiate') from e\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_a_data_error_ends_a_process_with_its_message_alone_however_wrapped():
    ended = end_with("DataError('scan.nii.gz: 0 bytes. Copy it again.')")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "Error: scan.nii.gz: 0 bytes. Copy it again."
    assert "Traceback" not in ended.stderr


def test_any_other_error_keeps_its_traceback():
    ended = end_with("KeyError('x')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr and "KeyError: 'x'" in ended.stderr


@pytest.mark.parametrize(
    ("words", "shown"), [("DataLoader worker (pid 7) is killed by signal: Killed. ", False), ("no space", True)]
)
def test_a_loaders_process_that_dies_while_the_loader_is_cleared_away_is_not_shown(words, shown):
    program = (
        "from scripts.data import report_data_errors_briefly\n"
        "report_data_errors_briefly(); report_data_errors_briefly()\n"
        "class Loader:\n"
        "    def __del__(self):\n"
        f"        raise RuntimeError({words!r})\n"
        "Loader()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0
    assert ("Traceback" in ended.stderr, words in ended.stderr) == (shown, shown)


def test_a_patch_is_checked_axis_by_axis():
    check_patch_size([160, 160, 8], (32, 32, 4), 8)
    with pytest.raises(DataError, match=r"\[160, 100, 6\].*multiples of \[32, 32, 4\], axis by axis.*\[160, 96, 8\]"):
        check_patch_size([160, 100, 6], (32, 32, 4), 4)


def volume(path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_nifti(np.ones((3, 4, 5), np.uint8), np.eye(4), path, **options)
    return path


def images_of(cases: list[dict]) -> list[str]:
    return [Path(case["image"]).name for case in cases]


def test_labels_and_own_results_are_not_segmented(tmp_path, caplog):
    for name in ("x", "x_seg", "b_0000", "b-label", "alone_mask"):
        volume(tmp_path / f"{name}.nii.gz")
    volume(tmp_path / "renamed.nii.gz", description=MARK)
    (tmp_path / "s.seg.nrrd").write_text("NRRD0004\nSegment0_ID:=a\n\n")
    assert images_of(find_images(str(tmp_path))) == ["alone_mask.nii.gz", "b_0000.nii.gz", "x.nii.gz"]
    for name in ("x_seg.nii.gz", "b-label.nii.gz", "renamed.nii.gz", "s.seg.nrrd"):
        assert name in caplog.text


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    scans, out = str(tmp_path / "scans"), str(tmp_path / "out")
    for name in "abc":
        volume(tmp_path / "scans" / f"{name}.nii.gz")
    assert images_of(scans_to_segment(scans, 1, out)) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    own = volume(tmp_path / "out" / "a_seg.nii.gz", description=MARK)
    with pytest.raises(DataError, match=rf"{own}: is there already \(1 such\). Add --existing keep"):
        scans_to_segment(scans, 1, out)
    assert images_of(scans_to_segment(scans, 1, out, "keep")) == ["b.nii.gz", "c.nii.gz"]
    assert len(scans_to_segment(scans, 1, out, "replace")) == 3
    drawn = volume(tmp_path / "out" / "b_seg.nii.gz")
    with pytest.raises(DataError, match=f"{drawn}: is there already .* not written by this program"):
        scans_to_segment(scans, 1, out, "replace")
    with pytest.raises(DataError, match="must be refuse, keep or replace"):
        scans_to_segment(scans, 1, out, "overwrite")
    volume(tmp_path / "out" / "c_seg.nii.gz")
    with pytest.raises(DataError, match="all 3 results are there"):
        scans_to_segment(scans, 1, out, "keep")


def test_a_label_beside_its_scan_survives_every_choice(tmp_path):
    volume(tmp_path / "x.nii.gz")
    volume(tmp_path / "x_seg.nii.gz")
    for existing in ("refuse", "replace"):
        with pytest.raises(DataError, match="x_seg.nii.gz: is there already"):
            scans_to_segment(str(tmp_path), 1, str(tmp_path), existing)


def test_a_folder_may_be_named_by_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    volume(tmp_path / "2019" / "1.nii.gz")
    (tmp_path / "2019" / "datalist.json").write_text("{}")
    assert images_of(find_images(2019)) == ["1.nii.gz"]
    assert find_datalist(2019, "datalist.json") == "2019/datalist.json"
    assert claim_folder(2020) == "2020" and (tmp_path / "2020").is_dir()


def test_cases_of_brats_are_scans_of_four_channels(tmp_path):
    for case in ("b1", "b2"):
        for kind in ("t2", "flair", "t1ce", "t1", "seg"):
            path = tmp_path / "cases" / case / f"{case}_{kind}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path)
            (tmp_path / "flat").mkdir(exist_ok=True)
            if kind != "seg":
                (tmp_path / "flat" / path.name).write_bytes(path.read_bytes())
    for folder in ("cases", "flat"):
        found = [[Path(file).name for file in case["image"]] for case in find_images(tmp_path / folder, channels=4)]
        assert found == [[f"{case}_{kind}.nii.gz" for kind in ("flair", "t1", "t1ce", "t2")] for case in ("b1", "b2")]


def test_four_digits_that_are_no_channel_are_a_scan_of_its_own(tmp_path):
    for name in ("patient_1234", "patient_0777"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 2), np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz")
    assert [Path(case["image"]).name for case in find_images(tmp_path, channels=2)] == [
        "patient_0777.nii.gz",
        "patient_1234.nii.gz",
    ]
