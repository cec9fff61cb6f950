# SPDX-License-Identifier: Apache-2.0
"""What a user typed becomes files, or one line that says what to type."""

import subprocess
import sys

import pytest

from scripts.data import DataError, check_patch_size, find_datalist, find_images, find_weights


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
    for name in ("c.nrrd", "a.nii.gz", "b.MHA", "notes.txt", ".hidden"):
        (tmp_path / name).write_text("")
    for folder, file in (("series", "1.dcm"), ("empty", "readme.md")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("")
    found = [case["image"] for case in find_images(str(tmp_path))]
    assert found == [str(tmp_path / name) for name in ("a.nii.gz", "b.MHA", "c.nrrd", "series")]


def test_one_file_is_taken_as_it_is(tmp_path):
    file = tmp_path / "scan.img"
    file.write_text("")
    assert find_images(str(file)) == [{"image": str(file)}]


@pytest.mark.parametrize(
    "make, message",
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
