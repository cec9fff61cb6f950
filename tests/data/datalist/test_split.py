# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
import json
import os
import re
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.cli import COMMANDS, main
from scripts.data import DataError, load_datalist
from scripts.data.datalist.cases import case_name, collect_cases
from scripts.data.datalist.split import split_cases
from scripts.data.datalist.write import write_datalist

SECTIONS = ("training", "unlabeled", "validation", "test")


def save(path: Path, top: int | None = None) -> None:
    """An image, or with ``top`` a label of the values 0 to ``top``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    array = rng.normal(size=(6, 6, 6)).astype(np.float32)
    if top is not None:
        array = np.arange(216).reshape(6, 6, 6).astype(np.uint8) % (top + 1)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def make(folder: Path, names, labelled=None, image="images/{}.nii.gz", label="labels/{}.nii.gz", top=1) -> Path:
    for name in names:
        save(folder / image.format(name))
        if labelled is None or name in labelled:
            save(folder / label.format(name), top)
    return folder


def names_of(datalist, section) -> list[str]:
    return [case_name(case["image"]) for case in datalist[section]]


NAMES = [f"case{number:02d}" for number in range(20)]


@pytest.fixture(scope="module")
def twenty(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("twenty"), NAMES)


def split_quietly(source, **arguments):
    return split_cases(source, progress=False, **arguments)


def test_numbers_of_cases(twenty):
    datalist = split_quietly(twenty, labeled=3, validation=2, test=5)
    assert [len(datalist[section]) for section in SECTIONS] == [3, 10, 2, 5]
    everyone = sum((names_of(datalist, section) for section in SECTIONS), [])
    assert sorted(everyone) == NAMES


def test_fractions_count_test_of_all_and_labeled_of_what_remains(twenty):
    datalist = split_quietly(twenty, labeled=0.25, test=0.2)
    assert [len(datalist[section]) for section in SECTIONS] == [4, 12, 0, 4]


def test_unlabeled_cases_lose_their_label(twenty):
    assert all(set(case) == {"image"} for case in split_quietly(twenty, labeled=3)["unlabeled"])


def test_all_labels_are_used_by_default(twenty):
    assert [len(split_quietly(twenty, test=5)[section]) for section in SECTIONS] == [15, 0, 0, 5]


def test_seed_decides(twenty):
    first, again, other = (split_quietly(twenty, labeled=5, test=5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_given_order_takes_labelled_first_and_test_last(twenty):
    datalist = split_quietly(twenty, labeled=2, validation=3, test=4, shuffle=False)
    assert names_of(datalist, "training") == NAMES[:2]
    assert names_of(datalist, "validation") == NAMES[13:16]
    assert names_of(datalist, "test") == NAMES[16:]


def test_a_patient_is_never_in_two_sections(tmp_path, caplog):
    scans = [f"p{patient}_t{time}" for patient in range(8) for time in range(3)]
    unlabelled = {"p0_t0", "p3_t1", "p5_t2"}
    make(tmp_path, scans, labelled=set(scans) - unlabelled)
    for seed in range(10):
        datalist = split_quietly(tmp_path, labeled=6, validation=3, test=6, group=r"^(p\d+)_", seed=seed)
        patients = [{name.split("_")[0] for name in names_of(datalist, section)} for section in SECTIONS]
        assert sum(len(found) for found in patients) == len(set.union(*patients))
        assert len(datalist["test"]) <= 6 and len(datalist["validation"]) <= 3
    assert "cases without a label are left out: their patient is in another section" in caplog.text


def test_a_section_smaller_than_asked_for_is_told(tmp_path, caplog):
    make(tmp_path, [f"p{patient}_t{time}" for patient in range(4) for time in range(3)])
    datalist = split_quietly(tmp_path, test=4, labeled=3, group=r"^(p\d+)_")
    assert len(datalist["test"]) == 3 and "--test 4: 3 cases, since patients stay together" in caplog.text
    with pytest.raises(DataError, match="--test 2: every patient has more labelled cases than that"):
        split_quietly(tmp_path, test=2, group=r"^(p\d+)_")


def test_a_patient_in_the_benchmarks_test_list_is_not_trained_on(tmp_path):
    make(tmp_path, ["p1_a", "p1_b", "p2_a"])
    (tmp_path / "train.list").write_text("p1_a\np2_a\n")
    (tmp_path / "test.list").write_text("p1_b\n")
    with pytest.raises(DataError, match="patient p1 is in train.list and in test.list"):
        split_quietly(tmp_path / "train.list", group=r"^(p\d+)_")


def test_group_pattern_that_does_not_match_is_named(twenty):
    with pytest.raises(DataError, match="case00: the pattern 'patient' for the patient is not in this name"):
        split_quietly(twenty, group="patient")


def test_classes_are_read_from_the_label_files(tmp_path):
    make(tmp_path, ["a", "b"], top=2)
    assert split_quietly(tmp_path)["labels"] == {"0": "background", "1": "class 1", "2": "class 2"}
    named = split_quietly(tmp_path, names="background, head,tail")
    assert named["labels"] == {"0": "background", "1": "head", "2": "tail"}


def test_label_values_with_a_gap_are_refused(tmp_path):
    make(tmp_path, ["a"])
    label = nibabel.Nifti1Image((np.arange(216).reshape(6, 6, 6) % 2 * 255).astype(np.uint8), np.eye(4))
    nibabel.save(label, tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(DataError, match=r"values 0, 255;.*--values 0,255"):
        split_quietly(tmp_path)


def test_image_in_the_place_of_a_label_is_noticed(tmp_path):
    make(tmp_path, ["a"])
    save(tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(DataError, match="a.nii.gz: no label file"):
        split_quietly(tmp_path)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/{}.nii.gz", "labels/{}_seg.nii.gz"),
        ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
        ("{}.nii.gz", "{}_label.nii.gz"),
        ("{}-img.nii", "{}-mask.nii.gz"),
    ],
)
def test_layouts_and_endings(tmp_path, image, label):
    make(tmp_path, ["a_1", "b 2", "ü"], image=image, label=label)
    cases = collect_cases(tmp_path).cases
    assert [case.name for case in cases] == ["a_1", "b 2", "ü"]
    assert all(case_name(case.label) == case.name for case in cases)


def test_label_folder_elsewhere(tmp_path):
    make(tmp_path, ["a", "b"], labelled={"b"}, image="scans/{}.nii.gz", label="drawn/{}.nii.gz")
    datalist = split_quietly(tmp_path / "scans", labels=tmp_path / "drawn")
    assert names_of(datalist, "training") == ["b"] and names_of(datalist, "unlabeled") == ["a"]


def test_mac_leftovers_are_no_scans(tmp_path):
    make(tmp_path, ["a"])
    (tmp_path / "images" / "._a.nii.gz").write_bytes(b"\0")
    assert len(collect_cases(tmp_path).cases) == 1


def test_decathlon_dataset_json(tmp_path):
    make(tmp_path, ["h_001", "h_003"], image="imagesTr/{}.nii.gz", label="labelsTr/{}.nii.gz")
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("h_001", "h_003")]
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior"},
        "training": entries,
        "test": ["./imagesTs/h_002.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    datalist = split_quietly(tmp_path, labeled=1)
    assert (
        datalist["labels"]["1"] == "Anterior"
        and datalist["modality"] == ["MRI"]
        and len(datalist["training"]) == len(datalist["unlabeled"]) == 1
    )


def test_nnunet_dataset_json_with_two_channels(tmp_path):
    for channel in (0, 1):
        make(tmp_path, ["x_01", "x_02"], image=f"imagesTr/{{}}_{channel:04d}.nii.gz", label="labelsTr/{}.nii.gz")
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    datalist = split_quietly(tmp_path / "dataset.json")
    assert datalist["labels"] == {"0": "background", "1": "tumour"} and datalist["modality"] == ["T1", "T2"]
    assert next(Path(file).name for file in datalist["training"][0]["image"]).endswith("_0000.nii.gz")
    assert len(datalist["training"]) == 2 and len(datalist["training"][0]["image"]) == 2


def test_benchmark_lists_keep_their_order(tmp_path):
    names = ["zeta", "alpha", "mid"]
    make(tmp_path, [*names, "held"])
    (tmp_path / "train.list").write_text("\n".join(names) + "\n")
    (tmp_path / "test.list").write_text("held\n")
    datalist = split_quietly(tmp_path / "train.list", labeled=1)
    assert [names_of(datalist, section) for section in SECTIONS] == [["zeta"], ["alpha", "mid"], [], ["held"]]
    with pytest.raises(DataError, match="names its test cases itself"):
        split_quietly(tmp_path / "train.list", test=1)


@pytest.mark.parametrize("labelled", [4, 8, 16])
def test_the_benchmark_split_of_the_left_atrium_comes_out(shared_data, labelled):
    folder = (shared_data / "left_atrium").resolve()
    names = "background,left atrium"
    found = split_quietly(folder / "train.list", labeled=labelled, test=16, names=names)
    expected = load_datalist(folder / f"datalist_{labelled}.json")
    for section in SECTIONS:
        assert [case["image"] for case in found[section]] == [case["image"] for case in expected[section]]
    assert {int(value): name for value, name in found["labels"].items()} == expected["labels"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": 19, "validation": 1, "labeled": 0}, "no labelled case is left for training"),
        ({"labeled": 2.5}, "--labeled 2.5: must be a whole number of cases, or a fraction"),
        ({"test": -1}, "--test -1: must be a whole number"),
        ({"test": "many"}, "--test many: must be a whole number"),
        ({"labeled": 21}, "--labeled 21: only 20 cases with a label are left"),
        ({"labeled": 5, "test": 10, "validation": 11}, "--validation 11: only 10 cases with a label are left"),
        ({"group": "(case"}, "--group .* not a regular expression"),
        ({"names": "heart"}, "name the background and every class"),
        ({"labels": "/nowhere"}, "/nowhere: no such folder"),
    ],
)
def test_wrong_wishes_are_named(twenty, arguments, message):
    with pytest.raises(DataError, match=message):
        split_quietly(twenty, **arguments)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: save(f / "labels" / "zz.nii.gz", 1), "1 labels without an image of the same name"),
        (lambda f: save(f / "labels" / "a_seg.nii.gz", 1), "a second label of case a, beside a.nii.gz"),
        (lambda f: save(f / "images" / "a.nii"), "a second image of case a"),
        (lambda f: [p.unlink() for p in (f / "images").iterdir()], "no images in it. Looked for .nii.gz"),
        (lambda f: (f / "dataset.json").write_text('{"labels": {},}'), "dataset.json: not JSON: .* at line 1"),
        (lambda f: (f / "dataset.json").write_text('{"name": 1}'), "not a dataset.json of nnU-Net or the Decathlon"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, spoil, message):
    make(tmp_path, ["a", "b"])
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        split_quietly(tmp_path)


def test_written_list_is_relative_loads_and_survives_a_move(tmp_path):
    folder = make(tmp_path / "here", ["a", "b", "c"])
    write_datalist(split_quietly(folder, labeled=1), folder / "datalist.json")
    folder.rename(tmp_path / "there")
    datalist = load_datalist(tmp_path / "there" / "datalist.json")
    assert len(datalist["training"]) == 1 and len(datalist["unlabeled"]) == 2


def test_a_list_that_exists_is_kept(tmp_path):
    make(tmp_path, ["a", "b"])
    (tmp_path / "datalist.json").write_text("mine")
    with pytest.raises(DataError, match="exists already. Name another file with --output, or add --overwrite"):
        write_datalist(split_quietly(tmp_path), tmp_path / "datalist.json")
    assert (tmp_path / "datalist.json").read_text() == "mine"


def test_output_that_cannot_be_written_is_named(tmp_path):
    make(tmp_path, ["a", "b"])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written .File exists.. Make room, or name a folder of yours"):
        write_datalist(split_quietly(tmp_path), tmp_path / "file" / "datalist.json")


def run(*command) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(part) for part in command])
    return caught.value.code


def test_split_then_check_by_command_line(tmp_path, capsys):
    make(tmp_path, NAMES[:6], top=2)
    assert run("split", tmp_path, "--labeled=2", "--test=1", "--names=background,head,tail") == 0
    assert "2 training, 3 unlabeled, 0 validation, 1 test" in capsys.readouterr().out
    assert run("check", tmp_path, "--output", tmp_path / "report.json") == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["cases"]) == 6 and report["cases"][0]["label_volumes"]["1"] == pytest.approx(0.072)


@pytest.mark.parametrize("classes", [1, 14])
def test_tables_are_readable_at_80_columns(tmp_path, capsys, monkeypatch, classes):
    """As large as CT with four channels and fourteen structures gets."""
    image, label = tmp_path / "patient_0007_baseline_2019_{}.nii.gz", tmp_path / "patient_0007_label.nii.gz"
    shape, affine = (512, 512, 2), np.diag([0.8203125, 0.8203125, 1.5, 1])
    voxels = np.full(shape, -1024, np.int16)
    voxels[0, 0, 0] = 3071
    for channel in range(4):
        nibabel.save(nibabel.Nifti1Image(voxels + channel, affine), str(image).format(channel))
    values = (np.arange(voxels.size) % 15).reshape(shape).clip(0, classes).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, affine), label)
    labels = {"0": "background", **{str(n): f"structure number {n}" for n in range(1, classes + 1)}}
    case = {"image": [str(image).format(channel) for channel in range(4)], "label": str(label)}
    (tmp_path / "datalist.json").write_text(json.dumps({"labels": labels, "training": [case]}))
    monkeypatch.setenv("COLUMNS", "80")
    assert run("check", tmp_path) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    for whole in ("512x512x2 ", "0.82x0.82x1.5", "RAS", "-1024..3071", "-1021..3074", f"structure number {classes} "):
        assert whole in shown
    assert "patient_0007_" in shown and "1 of 1" in shown


def test_check_ends_with_1_and_names_the_file(tmp_path, capsys):
    make(tmp_path, NAMES[:3])
    run("split", tmp_path)
    (tmp_path / "images" / "case01.nii.gz").write_bytes(b"")
    capsys.readouterr()
    assert run("check", tmp_path) == 1
    assert "case01.nii.gz: 0 bytes. Copy or download it again." in capsys.readouterr().out


def test_error_is_one_message_on_stderr(tmp_path, capsys):
    assert run("split", tmp_path / "typo") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ") and "no such file or folder" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("mistake", [["--labelled=2"], ["8", "/nowhere/labels", "2"], ["--sed", "3"]])
def test_a_mistyped_option_writes_nothing(tmp_path, mistake, capsys):
    make(tmp_path, NAMES[:4])
    assert run("split", tmp_path, *mistake) == 2
    assert not list(tmp_path.glob("*.json")) and not Path("8").exists()


def test_names_that_look_like_numbers_or_markup(tmp_path, capsys):
    folder = make(tmp_path / "2019", ["[red]7", "8"], label="9/{}.nii.gz")
    assert run("split", folder, "--labels", folder / "9", "--names=1,[b]two") == 0
    assert json.loads((folder / "datalist.json").read_text())["labels"] == {"0": "1", "1": "[b]two"}
    assert run("check", folder) == 0
    shown = capsys.readouterr().out
    assert "[red]7" in shown and "1 [b]two" in shown


def test_report_never_replaces_the_datalist(tmp_path, capsys):
    make(tmp_path, NAMES[:3])
    run("split", tmp_path)
    before = (tmp_path / "datalist.json").read_text()
    assert run("check", tmp_path, "--output", tmp_path / "datalist.json") == 1
    assert "the datalist itself" in capsys.readouterr().err
    assert (tmp_path / "datalist.json").read_text() == before
    (tmp_path / "file").write_text("")
    assert run("check", tmp_path, "--output", tmp_path / "file" / "report.json") == 1
    assert "report.json: cannot be written (File exists)" in capsys.readouterr().err
    assert run("check", tmp_path, "--workers=all") == 1
    assert "--workers all: must be a whole number" in capsys.readouterr().err


def test_a_full_disk_is_named_and_leaves_no_half_file(tmp_path, capsys):
    make(tmp_path, NAMES[:4])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # bytes: writing more fails, as on a full disk
    try:
        codes = [run("split", tmp_path), run("convert", tmp_path / "images", tmp_path / "out")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = capsys.readouterr().err
    assert codes == [1, 1]
    assert "datalist.json: cannot be written (File too large)" in errors
    assert "case00.nii.gz: cannot be written (File too large)" in errors
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name not in ("images", "labels")]
    assert left == []


@pytest.mark.parametrize("name", ["split", "check", "convert", "prepare"])
def test_help_says_all_that_the_docstring_says(name, capfd, monkeypatch):
    """Fire drops what follows a colon on a later line of an argument."""
    monkeypatch.setenv("PAGER", "cat")
    assert run(name, "--help") == 0
    shown = capfd.readouterr()
    words = " ".join((shown.out + shown.err).split())
    about, _, arguments = COMMANDS[name].__doc__.partition("Args:")
    texts = [" ".join(text.split()) for text in re.split(r"\n {8}(?! )\w+: ", arguments)[1:]]
    assert len(texts) == len(inspect.signature(COMMANDS[name]).parameters)
    assert all(text in words for text in (" ".join(about.split("\n\n")[0].split()), *texts))


def test_module_runs_and_has_help(bundle_root):
    command = [sys.executable, "-m", "scripts.data", "split", "--help"]
    environment = {**os.environ, "PAGER": "cat"}
    done = subprocess.run(command, cwd=bundle_root, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0 and "regular expression for the patient" in done.stdout + done.stderr
