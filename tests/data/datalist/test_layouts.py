# SPDX-License-Identifier: Apache-2.0
"""Scans and labels as people keep them, down to the section that each file gets into."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.cli import main
from scripts.data import DataError, collect_cases, inspect_data, load_datalist, split_cases, write_datalist

SHAPE = (4, 3, 2)


def save(*paths: Path, voxels=None) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.full(SHAPE, number, np.int16) if voxels is None else voxels
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def label(*paths: Path, values=(0, 1)) -> None:
    voxels = np.resize(np.array(values, np.uint8), SHAPE)
    save(*paths, voxels=voxels)


def found(source: Path, **options) -> dict[str, tuple]:
    """{case: (names of its images, name of its label)}, relative to the folder."""
    cases = collect_cases(source, **options).cases
    root = source if source.is_dir() else source.parent

    def short(path):
        return None if path is None else Path(path).resolve().relative_to(root.resolve()).as_posix()

    return {
        case.name: (
            tuple(map(short, case.image)) if isinstance(case.image, list) else short(case.image),
            short(case.label),
        )
        for case in cases
    }


def test_numbered_channels_without_a_json_are_one_scan(tmp_path):
    for case in ("case_00", "case_01"):
        save(tmp_path / "images" / f"{case}_0000.nii.gz", tmp_path / "images" / f"{case}_0001.nii.gz")
    label(tmp_path / "labels" / "case_00.nii.gz")
    assert found(tmp_path) == {
        "case_00": (("images/case_00_0000.nii.gz", "images/case_00_0001.nii.gz"), "labels/case_00.nii.gz"),
        "case_01": (("images/case_01_0000.nii.gz", "images/case_01_0001.nii.gz"), None),
    }
    (tmp_path / "images" / "case_01_0001.nii.gz").unlink()
    with pytest.raises(DataError, match="case_01_0000.nii.gz: one channel, where other cases have 2"):
        collect_cases(tmp_path)


def test_four_digits_that_number_the_cases_are_no_channels(tmp_path):
    names = [f"scan_{number:04d}.nii.gz" for number in range(3)]
    save(*(tmp_path / "images" / name for name in names))
    label(tmp_path / "labels" / names[0], tmp_path / "labels" / names[2])
    assert found(tmp_path) == {
        "scan_0000": ("images/scan_0000.nii.gz", "labels/scan_0000.nii.gz"),
        "scan_0001": ("images/scan_0001.nii.gz", None),
        "scan_0002": ("images/scan_0002.nii.gz", "labels/scan_0002.nii.gz"),
    }


@pytest.mark.parametrize("flat", [False, True])
def test_brats_as_released(tmp_path, flat):
    for number in range(2):
        case = f"BraTS_{number:03d}"
        folder = tmp_path / "HGG" if flat else tmp_path / "HGG" / case
        save(*(folder / f"{case}_{kind}.nii.gz" for kind in ("flair", "t1", "t1ce", "t2")))
        label(folder / f"{case}_seg.nii.gz", values=(0, 1, 2, 4))
    source = tmp_path / "HGG" if flat else tmp_path
    with pytest.raises(DataError, match="values 0, 1, 2, 4;.* --values 0,1,2,4"):
        split_cases(source, progress=False)
    datalist = split_cases(source, values=[0, 1, 2, 4], progress=False)
    assert datalist["values"] == [0, 1, 2, 4] and datalist["modality"] == ["flair", "t1", "t1ce", "t2"]
    assert datalist["labels"] == {"0": "background", "1": "class 1", "2": "class 2", "3": "class 3"}
    assert len(datalist["training"]) == 2
    kinds = [
        re.search(r"_(\w+)\.nii", Path(image).name.split("BraTS_00")[1])[1]
        for image in datalist["training"][0]["image"]
    ]
    assert [kind.split("_")[-1] for kind in kinds] == ["flair", "t1", "t1ce", "t2"]


def test_one_of_several_channels_is_asked_for(tmp_path):
    for case in ("p1", "p2"):
        save(*(tmp_path / case / f"{case}_{kind}.nii.gz" for kind in ("T1", "FLAIR")))
        label(tmp_path / case / f"{case}_mask.nii.gz")
    with pytest.raises(DataError, match="p1: 2 scans of one case, p1_FLAIR.nii.gz, p1_T1.nii.gz.*--channels T1,FLAIR"):
        collect_cases(tmp_path)
    assert found(tmp_path, channels=["T1"])["p1"] == ("p1/p1_T1.nii.gz", "p1/p1_mask.nii.gz")
    both = collect_cases(tmp_path, channels=["T1", "FLAIR"])
    assert [Path(file).name for file in both.cases[1].image] == ["p2_T1.nii.gz", "p2_FLAIR.nii.gz"]
    assert (
        "p1_FLAIR.nii.gz, p2_FLAIR.nii.gz (not one of --channels)" in collect_cases(tmp_path, channels=["T1"]).summary
    )


@pytest.mark.parametrize(
    ("image", "drawn"),
    [
        ("volume-{}.nii", "segmentation-{}.nii"),  # LiTS
        ("img{:04d}.nii.gz", "label{:04d}.nii.gz"),  # BTCV
        ("Case{:02d}.nii.gz", "Case{:02d}_segmentation.nii.gz"),  # PROMISE12
        ("case_{:05d}/imaging.nii.gz", "case_{:05d}/segmentation.nii.gz"),  # KiTS
        ("{}/image.nii.gz", "{}/label.nii.gz"),
        ("images/img_{}.nii.gz", "labels/label_{}.nii.gz"),
        ("Images/{}.nii.gz", "Masks/{}-mask-manual.nii.gz"),
    ],
)
def test_names_of_public_data_sets(tmp_path, image, drawn):
    for number in (1, 2, 3):
        save(tmp_path / image.format(number))
        if number < 3:
            label(tmp_path / drawn.format(number))
    pairs = list(found(tmp_path).values())
    expected = [(image.format(n), drawn.format(n) if n < 3 else None) for n in (1, 2, 3)]
    assert sorted(pairs, key=str) == sorted(expected, key=str)


def test_a_name_in_two_unicode_forms_is_one_case(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Müller_ångström") for form in ("NFC", "NFD"))
    save(tmp_path / "images" / f"{decomposed}.nii.gz")
    label(tmp_path / "labels" / f"{composed}.nii.gz")
    [case] = collect_cases(tmp_path).cases
    assert case.label is not None and case.name == composed
    written = {"image": f"images\\{composed}.nii.gz", "label": f"labels\\{decomposed}.nii.gz"}  # from a Windows machine
    (tmp_path / "datalist.json").write_text(json.dumps({"labels": {"0": "b", "1": "c"}, "training": [written]}))
    [entry] = load_datalist(tmp_path / "datalist.json")["training"]
    assert entry["image"] == case.image and entry["label"] == case.label


def test_labelled_and_unlabelled_scans_in_two_folders(tmp_path):
    save(tmp_path / "done" / "a.nii.gz", tmp_path / "todo" / "b.nii.gz", tmp_path / "todo" / "c.nii.gz")
    label(tmp_path / "done" / "a_seg.nii.gz", tmp_path / "todo" / "c_seg.nii.gz")
    datalist = split_cases(tmp_path / "done", unlabeled=tmp_path / "todo", progress=False)
    assert [Path(case["image"]).name for case in datalist["unlabeled"]] == ["b.nii.gz", "c.nii.gz"]
    assert [Path(case["image"]).name for case in datalist["training"]] == ["a.nii.gz"]
    (tmp_path / "done").rename(tmp_path / "labeled")
    (tmp_path / "todo").rename(tmp_path / "unlabeled")
    assert [case.label is not None for case in collect_cases(tmp_path).cases] == [True, False, False]
    assert "c_seg.nii.gz (a label among unlabelled scans)" in collect_cases(tmp_path).summary


def test_bids_with_derivatives_keeps_a_patient_in_one_section(tmp_path):
    for patient in range(6):
        for session in (1, 2):
            name = f"sub-{patient:02d}_ses-{session}"
            path = Path(f"sub-{patient:02d}", f"ses-{session}", "anat")
            save(tmp_path / path / f"{name}_acq-mprage_T1w.nii.gz", tmp_path / path / f"{name}_FLAIR.nii.gz")
            if patient < 4:
                label(tmp_path / "derivatives" / "manual" / path / f"{name}_label-lesion_mask.nii.gz")
    label(tmp_path / "derivatives" / "manual" / "sub-00" / "sub-00_ses-1_space-MNI152_mask.nii.gz")
    with pytest.raises(DataError, match="scans of 2 kinds, FLAIR, T1w.*--channels FLAIR"):
        collect_cases(tmp_path)
    cases = collect_cases(tmp_path, channels=["T1w"])
    assert len(cases.cases) == 12 and sum(case.label is not None for case in cases.cases) == 8
    assert "space-MNI152_mask.nii.gz (a label in another space)" in cases.summary
    for seed in range(5):
        datalist = split_cases(tmp_path, channels=["T1w"], test=2, validation=2, labeled=2, seed=seed, progress=False)
        sections = ("training", "unlabeled", "validation", "test")
        patients = [{re.search(r"sub-\d+", case["image"])[0] for case in datalist[section]} for section in sections]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 6
    label(tmp_path / "derivatives" / "auto" / "sub-00" / "sub-00_ses-1_dseg.nii.gz")
    with pytest.raises(DataError, match="a second label of sub-00_ses-1_acq-mprage.*--labels .*derivatives"):
        collect_cases(tmp_path, channels=["T1w"])


def nnunet(folder: Path, labels=None, **content) -> Path:
    labels = labels or {"background": 0, "organ": 1}
    channels = content.pop("channel_names", {"0": "T1", "1": "T2"})
    folder.mkdir(exist_ok=True)
    json_content = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz", **content}
    (folder / "dataset.json").write_text(json.dumps(json_content))
    return folder


def test_nnunet_raw_folder_with_images_for_test(tmp_path):
    for place, case in (("imagesTr", "a"), ("imagesTr", "b"), ("imagesTs", "c"), ("imagesTs", "d")):
        save(*(tmp_path / place / f"{case}_{channel:04d}.nii.gz" for channel in (0, 1)))
    label(tmp_path / "labelsTr" / "a.nii.gz", tmp_path / "labelsTs" / "d.nii.gz")
    save(tmp_path / "imagesTr" / "a_0002.nii.gz")
    (tmp_path / "imagesTr" / "readme.txt").write_text("")
    datalist = split_cases(nnunet(tmp_path), progress=False)
    names = {
        s: [Path(c["image"][0]).name[0] for c in datalist[s]] for s in ("training", "unlabeled", "validation", "test")
    }
    assert names == {"training": ["a"], "unlabeled": ["b", "c"], "validation": [], "test": ["d"]}
    summary = collect_cases(tmp_path).summary
    assert summary.startswith("12 files seen, 10 used, 2 not: ")
    assert "readme.txt (no scan)" in summary and "a_0002.nii.gz (not named" in summary
    label(tmp_path / "labelsTr" / "z.nii.gz")
    with pytest.raises(DataError, match="z.nii.gz: a label without imagesTr/z_0000.nii.gz"):
        collect_cases(tmp_path)


def test_nnunet_folder_without_its_json(tmp_path):
    for place, case in (("imagesTr", "a"), ("imagesTr", "b"), ("imagesTs", "c")):
        save(*(tmp_path / place / f"{case}_{channel:04d}.nii.gz" for channel in (0, 1)))
    label(tmp_path / "labelsTr" / "a.nii.gz")
    assert {name: (len(images), bool(drawn)) for name, (images, drawn) in found(tmp_path).items()} == {
        "a": (2, True),
        "b": (2, False),
        "c": (2, False),
    }


def test_test_images_of_the_decathlon_are_unlabelled_scans(tmp_path):
    save(tmp_path / "imagesTr" / "h_1.nii.gz", tmp_path / "imagesTs" / "h_2.nii.gz")
    label(tmp_path / "labelsTr" / "h_1.nii.gz")
    entries = [{"image": "./imagesTr/h_1.nii.gz", "label": "./labelsTr/h_1.nii.gz"}]
    test = ["./imagesTs/h_2.nii.gz", "./imagesTs/h_3.nii.gz"]
    content = {"labels": {"0": "background", "1": "x"}, "training": entries, "test": test}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert found(tmp_path)["h_2"] == ("imagesTs/h_2.nii.gz", None)
    assert "h_3.nii.gz (listed for test in dataset.json, but not there)" in collect_cases(tmp_path).summary


def test_csv_table(tmp_path):
    save(*(tmp_path / "s" / f"{name}.nii.gz" for name in "abcd"))
    label(*(tmp_path / "s" / f"{name}_l.nii.gz" for name in "abd"))
    lines = ["Image;Label;Patient;Split", "s\\a.nii.gz;s\\a_l.nii.gz;1;train", "s/b.nii.gz;s/b_l.nii.gz;2;val"]
    lines += ["s/c.nii.gz;;1;", "s/d.nii.gz;s/d_l.nii.gz;3;"]
    (tmp_path / "list.csv").write_text("\ufeff" + "\n".join(lines) + "\n")
    datalist = split_cases(tmp_path / "list.csv", progress=False)
    sections = {
        key: [Path(c["image"]).name[0] for c in datalist[key]] for key in ("training", "unlabeled", "validation")
    }
    assert sections == {"training": ["a"], "unlabeled": ["d"], "validation": ["b"]}  # c is of a's patient
    path = write_datalist(datalist, tmp_path / "datalist.json")
    assert len(load_datalist(path)["training"]) == 1
    (tmp_path / "list.csv").write_text("image,label\ns/a.nii.gz,s/nowhere.nii.gz\n")
    with pytest.raises(DataError, match="list.csv: line 2: s/nowhere.nii.gz: no such file"):
        collect_cases(tmp_path / "list.csv")


def test_what_is_neither_scan_nor_label_is_named(tmp_path):
    save(tmp_path / "images" / "a.nii.gz", tmp_path / "images" / "b.nii.gz", tmp_path / "images" / "deep" / "c.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz", tmp_path / "images" / "a_mask.nii.gz")
    (tmp_path / "images" / "notes.txt").write_text("")
    (tmp_path / "images" / "old.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    for hidden in (".DS_Store", "Thumbs.db", "._a.nii.gz", "desktop.ini"):
        (tmp_path / "images" / hidden).write_text("")
    collection = collect_cases(tmp_path)
    assert [case.name for case in collection.cases] == ["a", "b"]
    assert {Path(file).name: reason for file, reason in collection.unused.items()} == {
        "notes.txt": "no scan",
        "old.nii.gz": "a link to nothing",
        "deep": "a folder beside the scans",
        "a_mask.nii.gz": "named as a label, among the images",
    }
    assert collection.summary.startswith("7 files seen, 3 used, 4 not: ")


@pytest.mark.parametrize(
    "name", ["2019", "a b", "a#b", "@a", "100%", "%a", "$a", "$", "it's", 'say "a"', "日本", "x" * 200, "a,b", "[1]"]
)
def test_odd_names(tmp_path, name):
    folder = tmp_path / name
    save(folder / "images" / f"{name}.nii.gz", folder / "images" / "other.nii.gz")
    label(folder / "labels" / f"{name}.nii.gz")
    path = write_datalist(split_cases(folder, progress=False), folder / "datalist.json")
    found = load_datalist(path)
    assert Path(found["training"][0]["image"]).name == f"{name}.nii.gz" and len(found["unlabeled"]) == 1


def test_check_counts_classes_by_the_values_of_the_datalist(tmp_path):
    save(tmp_path / "images" / "a.nii.gz", tmp_path / "images" / "b.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz", values=(0, 1, 2, 4))
    one_hot = np.stack([np.resize([0, 1, 2, 3], SHAPE) == number for number in range(4)], -1).astype(np.uint8)
    save(tmp_path / "labels" / "b.nii.gz", voxels=one_hot)
    content = {
        "labels": {"0": "background", "1": "x", "2": "y", "3": "z"},
        "values": [0, 1, 2, 4],
        "training": [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in "ab"],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    report = inspect_data(load_datalist(tmp_path / "datalist.json"), progress=False)
    assert report.errors == []
    assert [case.label_voxels for case in report.cases] == [{0: 6, 1: 6, 2: 6, 3: 6}] * 2
    assert "4 channels of 0 and 1, taken as one class each" in report.cases[1].warnings[-1]
    label(tmp_path / "labels" / "a.nii.gz", values=(0, 1, 3, 4))
    [error] = inspect_data(load_datalist(tmp_path / "datalist.json"), progress=False).errors
    assert "label values 3 in 6 voxels, but the classes are 0 background, 1 x, 2 y, 4 z" in error
    (tmp_path / "datalist.json").write_text(json.dumps({**content, "values": [0, 1]}))
    with pytest.raises(DataError, match='"values" has 2 values for 4 "labels"'):
        load_datalist(tmp_path / "datalist.json")


@pytest.mark.parametrize("name", ["2019", "2019_01", "1e3", "0x10", "[1]", "a,b", "None"])
def test_words_on_the_command_line_stay_what_was_typed(tmp_path, monkeypatch, capsys, name):
    save(tmp_path / name / "images" / "a.nii.gz")
    label(tmp_path / name / "labels" / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["split", name, "--names=1,2_0"])
    assert done.value.code == 0, capsys.readouterr()
    assert load_datalist(tmp_path / name / "datalist.json")["labels"] == {0: "1", 1: "2_0"}
    assert "2 files seen, all used" in capsys.readouterr().out


def test_segments_give_the_classes_their_names(tmp_path):
    save(tmp_path / "images" / "a.nii.gz", tmp_path / "images" / "b.nii.gz")
    (tmp_path / "labels").mkdir()

    def segmentation(path, voxels, name):
        sizes, list_ = " ".join(map(str, voxels.shape)), "none " if voxels.ndim == 4 else ""
        head = [
            "NRRD0004",
            "type: uchar",
            f"dimension: {voxels.ndim}",
            "space: right-anterior-superior",
            f"sizes: {sizes}",
        ]
        head += [f"space directions: {list_}(1,0,0) (0,1,0) (0,0,1)", "encoding: raw", "space origin: (0,0,0)"]
        head += ["Segment0_ID:=Segment_1", "Segment0_LabelValue:=1", f"Segment0_Name:={name}"]
        path.write_bytes(("\n".join(head) + "\n\n").encode() + voxels.tobytes(order="F"))

    voxels = np.resize([0, 1], SHAPE).astype(np.uint8)
    for case in "ab":
        segmentation(tmp_path / "labels" / f"{case}.seg.nrrd", voxels, "liver")
    assert split_cases(tmp_path, progress=False)["labels"] == {"0": "background", "1": "liver"}
    segmentation(tmp_path / "labels" / "b.seg.nrrd", voxels, "spleen")
    with pytest.raises(DataError, match="value 1 is (spleen, but liver|liver, but spleen)"):
        split_cases(tmp_path, progress=False)
    segmentation(tmp_path / "labels" / "b.seg.nrrd", np.stack([voxels, voxels]), "liver")
    with pytest.raises(DataError, match="b.seg.nrrd: 2 layers, and no kinds in its header.*export it as one labelmap"):
        split_cases(tmp_path, progress=False)


def test_unlabelled_scans_beside_case_folders(tmp_path):
    save(tmp_path / "p1" / "image.nii.gz", tmp_path / "unlabelled" / "x.nii.gz", tmp_path / "unlabelled" / "y.nii.gz")
    label(tmp_path / "p1" / "label.nii.gz")
    assert found(tmp_path) == {
        "p1": ("p1/image.nii.gz", "p1/label.nii.gz"),
        "x": ("unlabelled/x.nii.gz", None),
        "y": ("unlabelled/y.nii.gz", None),
    }
