# SPDX-License-Identifier: Apache-2.0
"""Every row of the tables in docs/data.md, as a user meets it: a command, exit code 1, file and remedy named."""

from __future__ import annotations

import errno
import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import itk
import nibabel
import numpy as np
import pytest
from raw_scans import atrial_case, pancreas_case, write_slice

from scripts.cli import main
from scripts.data import (
    DataError,
    claim_folder,
    find_datalist,
    find_images,
    find_weights,
    fingerprint,
    inspect_data,
    load_datalist,
)
from scripts.data.io import volumes as volumes_module

SHAPE = (8, 7, 6)
AFFINE = np.diag([0.8, 0.9, 2.0, 1.0])
LABELS = {"0": "background", "1": "heart", "2": "lung"}


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def image(seed: int = 0, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def label(shape=SHAPE) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 3).astype(np.uint8)


@pytest.fixture
def data(tmp_path) -> Path:
    """A sound data set: a and b labelled, u unlabelled, t for test."""
    folder = tmp_path / "data"
    for seed, name in enumerate("abut"):
        save(folder / "images" / f"{name}.nii.gz", image(seed))
        if name != "u":
            save(folder / "labels" / f"{name}.nii.gz", label())
    write(folder, {"labels": LABELS, "training": [case("a"), case("b")], "unlabeled": [case("u")], "test": [case("t")]})
    return folder


def case(name: str) -> dict[str, str]:
    found = {"image": f"images/{name}.nii.gz"}
    return found if name == "u" else {**found, "label": f"labels/{name}.nii.gz"}


def write(folder: Path, content: object) -> Path:
    path = folder / "datalist.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def listed(data: Path, **changes) -> Path:
    return write(data, {**json.loads((data / "datalist.json").read_text()), **changes})


def of(data: Path, name: str = "b", role: str = "image") -> Path:
    return data / f"{role}s" / f"{name}.nii.gz"


def changed(role: str, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE):
    """Case b with other voxels."""
    return lambda data: save(of(data, role=role), change(image(1) if role == "image" else label()), affine)


def replaced(content: bytes, role: str = "image"):
    def spoil(data: Path) -> Path:
        of(data, role=role).write_bytes(content)
        return of(data, role=role)

    return spoil


def rewritten(change: Callable[[bytes], bytes]):
    def spoil(data: Path) -> Path:
        of(data).write_bytes(change(of(data).read_bytes()))
        return of(data)

    return spoil


def other_checksum(packed: bytes) -> bytes:
    plain = bytearray(gzip.decompress(packed))
    plain[-1] ^= 1
    return gzip.compress(bytes(plain))[:-8] + packed[-8:]


def with_value(value: float):
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels[3, 4, 5] = value
        return voxels

    return change


def no_affine(data: Path) -> Path:
    header = nibabel.Nifti1Image(image(1), None).header
    header["srow_x"] = header["srow_y"] = header["srow_z"] = 0
    header["sform_code"] = 1
    of(data).write_bytes(gzip.compress(header.binaryblock + bytes(4) + image(1).tobytes(order="F")))
    return of(data)


def link(data: Path) -> Path:
    (data / "images" / "again.nii.gz").symlink_to(of(data, "a"))
    listed(data, unlabeled=[{"image": "images/again.nii.gz"}])
    return data / "images" / "again.nii.gz"


def copy(data: Path) -> Path:
    nibabel.save(nibabel.load(of(data, "a")), data / "images" / "renamed.nii")
    listed(data, unlabeled=[{"image": "images/renamed.nii"}])
    return data / "images" / "renamed.nii"


def in_place_of(data: Path, role: str = "image") -> Path:
    of(data, role=role).unlink()
    of(data, role=role).mkdir()
    return of(data, role=role)


def series(data: Path, uids: list[str]) -> Path:
    folder = in_place_of(data)
    for number, uid in enumerate(uids):
        write_slice(folder / f"{number}.dcm", image(1)[:, :, 0], number + 1, float(number), uid)
    return folder


def hdf5(data: Path) -> Path:
    with h5py.File(data / "x.h5", "w") as file:
        file["picture"] = image(1)
    listed(data, unlabeled=[{"image": "x.h5"}])
    return data / "x.h5"


def channels(data: Path) -> Path:
    second = save(data / "images" / "second.nii.gz", image(5, (8, 7, 5)))
    files = ["images/a.nii.gz", "images/second.nii.gz"]
    both = [{**case("b"), "image": ["images/b.nii.gz", "images/b2.nii.gz"]}]
    save(data / "images" / "b2.nii.gz", image(9))
    listed(data, training=[{**case("a"), "image": files}, *both], unlabeled=[], test=[])
    return second


def check(spoil: Callable[[Path], Path], *words: str):
    """A row of what is checked: spoil the data, and say what the command must name and tell."""
    return lambda data, patch: (["check", data], spoil(data), words)


def unreadable(data: Path, patch) -> tuple:
    load = nibabel.load

    def refused(path, *arguments, **options):
        if Path(path) == of(data):
            raise PermissionError(errno.EACCES, "Permission denied")
        return load(path, *arguments, **options)

    patch.setattr("nibabel.load", refused)
    return ["check", data], of(data), ("permission denied", "Make it readable")


def too_large(data: Path, patch) -> tuple:
    # what a header claims fits, but not the copies that reading it whole takes
    patch.setattr(volumes_module, "physical_memory", lambda: 2 * 4 * int(np.prod(SHAPE)))
    itk.imwrite(itk.imread(str(of(data, "u"))), str(data / "images" / "u.nrrd"))
    listed(data, unlabeled=[{"image": "images/u.nrrd"}])
    return ["check", data], data / "images" / "u.nrrd", ("too much for a machine", "Write it as NIfTI")


def call(function: Callable[[Path], object], file: Callable[[Path], object], *words: str):
    """What a config runs; its DataError ends the command with exit code 1 (tests/test_bad_input.py)."""
    return lambda data, patch: (lambda: function(data), file(data), words)


def command(*line: str, file: str, words: tuple[str, ...], before: Callable[[Path], object] = lambda data: None):
    """A command line; DATA stands for the folder of the data."""

    def make(data: Path, patch) -> tuple:
        before(data)
        return [word.replace("DATA", str(data)) for word in line], file.replace("DATA", str(data)), words

    return make


def air_of(shape: tuple[int, int, int]) -> np.ndarray:
    """A label of the two columns where a made CT shows air."""
    voxels = np.zeros(shape, np.uint8)
    voxels[:2] = 1
    return voxels


def modality(data: Path) -> None:
    fingerprint(inspect_data(load_datalist(data / "datalist.json"), progress=False), ["CT", "PET"])


def text(name: str, content: str):
    def spoil(data: Path) -> None:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(content)

    return spoil


def removed(*names: str):
    def spoil(data: Path) -> Path:
        for name in names:
            path = data / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return data / names[-1]

    return spoil


def in_turn(*steps: Callable[[Path], object]):
    return lambda data: [step(data) for step in steps]


JSON = "datalist.json"
UNLISTED = removed(JSON)
RAW = ("prepare", "left_atrium", "DATA/out", "--source=DATA/raw")

ROWS: dict[str, dict[str, Callable]] = {
    "datalist or its folder missing; a folder in its place": {
        "no file": check(removed(JSON), "no such file", "make a datalist with `dualseg split`"),
        "no folder": command("check", "DATA/no/x.json", file="DATA/no/x.json", words=("no such folder", "Correct")),
        "folder": check(
            lambda data: (UNLISTED(data), (data / JSON).mkdir(), data / JSON)[2], "a folder", "Name the JSON"
        ),
        "in training": call(lambda data: find_datalist(str(data), "x.json"), lambda data: data / "x.json", "Correct"),
        "not named": call(
            lambda data: find_datalist(None, "x.json"), lambda data: "x.json", "Add --dataset_dir FOLDER"
        ),
    },
    "not JSON, e.g. a comma too many (line and column are named); not UTF-8; not an object": {
        "comma": check(lambda data: write(data, '{"labels": {},}'), "line 1, column 15", "a comma too many"),
        "latin": check(lambda data: (write(data, ""), (data / JSON).write_bytes(b'{"\xe9'), data / JSON)[2], "UTF-8"),
        "list": check(lambda data: write(data, "[]"), "a JSON list", 'an object with "labels"'),
    },
    "`labels` missing, not from 0 on, with gaps, with a name twice": {
        "missing": check(lambda data: listed(data, labels=None), '"labels" is missing', "Write e.g."),
        "from 1": check(lambda data: listed(data, labels={"1": "a", "2": "b"}), "must start at 0", "Renumber"),
        "gap": check(lambda data: listed(data, labels={"0": "a", "2": "b"}), "be consecutive", "Renumber"),
        "names": check(lambda data: listed(data, labels={"0": "a", "1": "a"}), "each must be a text", "Write e.g."),
        "key": check(lambda data: listed(data, labels={"x": "a"}), "not a whole number", "Write e.g."),
    },
    "`training` missing or empty; a section that is no list": {
        "missing": check(
            lambda data: write(data, {"labels": LABELS}), '"training" is empty or missing', "List at least"
        ),
        "empty": check(lambda data: listed(data, training=[]), '"training" is empty or missing', "List at least"),
        "object": check(lambda data: listed(data, test={}), '"test" is a dict', "It must be a list"),
    },
    "an unknown section (`unlabelled`, `val`, ...)": {
        "unlabelled": check(lambda data: listed(data, unlabelled=[{}]), 'did you mean "unlabeled"?'),
        "cases": check(lambda data: listed(data, cases=[{}]), "The sections are training, unlabeled"),
    },
    "`modality` that is no list of names": {
        "word": check(lambda data: listed(data, modality="CT"), "Write one name for each channel"),
    },
    "`regions` that are no lists of classes; a name with # or :: in it, or _ in front": {
        "number": check(lambda data: listed(data, regions={"whole": 1}), 'region "whole" is 1', "Write e.g."),
        "no class": check(
            lambda data: listed(data, regions={"whole": [1, 9]}), "the classes are 1 heart", "Write e.g."
        ),
        "name": check(lambda data: listed(data, regions={"a#b": [1]}), 'called "a#b"', "Give it a name without"),
    },
    "an ignored value that is a class, no whole number, or given twice": {
        "class": check(lambda data: listed(data, ignore=2), "the ignored value 2 is a class", "another value"),
        "text": check(lambda data: listed(data, ignore="255"), "is '255'", "Write the label value"),
        "twice": check(
            lambda data: listed(data, ignore=255, labels={**LABELS, "3": "ignore"}), "two ignored values", "Only one"
        ),
    },
    "`classes` of a case that are no list, or none of the classes": {
        "word": check(lambda data: listed(data, test=[{**case("t"), "classes": "lung"}]), "List the annotated classes"),
        "none": check(lambda data: listed(data, test=[{**case("t"), "classes": [3]}]), "The classes are 1 heart"),
        "empty": check(lambda data: listed(data, test=[{**case("t"), "classes": []}]), "List at least one of"),
    },
    "a voxel of a class that the case's `classes` do not list; a label of ignored voxels only": {
        "other class": check(
            lambda data: (listed(data, test=[{**case("t"), "classes": [1]}]), of(data, "t", "label"))[1],
            "class 2 (lung) in 112 voxels",
            "Add it there, or erase",
        ),
        "ignored": check(
            lambda data: (
                listed(data, ignore=255),
                changed("label", lambda voxels: np.full_like(voxels, 255))(data),
            )[1],
            "every voxel has the ignored value 255",
            "list the case as unlabelled",
        ),
    },
    "an entry without image; a labelled one without label; the image named as its own label": {
        "no image": check(lambda data: listed(data, test=[{"label": "x"}]), 'has no "image"', "Give a path"),
        "text": check(lambda data: listed(data, test=["a.nii.gz"]), 'Write {"image": path'),
        "no label": check(lambda data: listed(data, test=[case("u")]), 'has no "label"', "Add its path"),
        "zero": check(
            lambda data: listed(data, test=[{"image": "a\0b", "label": "x"}]), 'has no "image"', "Give a path"
        ),
        "itself": check(lambda data: listed(data, test=[{"image": "x", "label": "x"}]), "Give the label's path"),
    },
    "an image or label file that is missing": {
        role: check(removed(f"{role}s/b.nii.gz"), f"no such {role} file", "Copy it there")
        for role in ("image", "label")
    },
    "a case in two sections, also by a link or another path": {
        "same": check(lambda data: (listed(data, test=[case("a")]), of(data, "a"))[1], 'in both "training" and "test"'),
        "link": check(link, 'in both "training" and "unlabeled"', "Remove it from one"),
        "path": check(
            lambda data: (listed(data, unlabeled=[{"image": "labels/../images/a.nii.gz"}]), of(data, "a"))[1],
            'in both "training" and "unlabeled"',
        ),
    },
    "a case twice in a section; one label for two images": {
        "twice": check(lambda data: (listed(data, test=[case("t")] * 2), of(data, "t"))[1], "Remove one entry"),
        "label": check(
            lambda data: (listed(data, test=[{**case("t"), "label": "labels/a.nii.gz"}]), of(data, "a", "label"))[1],
            "the label of two images",
            "Correct the entry",
        ),
    },
    "more validation cases asked for than labelled ones can spare": {
        "two of two": call(lambda data: load_datalist(data / JSON, 2), lambda data: data / JSON, "Ask for fewer"),
    },
    "0 bytes; zeros only; truncated; a flipped bit (gzip's checksum)": {
        "empty": check(replaced(b""), "0 bytes", "Copy or download it again"),
        "empty label": check(replaced(b"", "label"), "0 bytes", "Copy or download it again"),
        "zeros": check(replaced(bytes(3000)), "holds zeros only", "repeat it"),
        "truncated": check(rewritten(lambda packed: packed[:-90]), "truncated", "Copy or download it again"),
        "bit": check(rewritten(other_checksum), "damaged", "Copy or download it again"),
    },
    "a web page saved as .nii.gz; a Git LFS pointer": {
        "page": check(replaced(b"<!DOCTYPE html><html>"), "a web page", "Download it again"),
        "pointer": check(replaced(b"version https://git-lfs.github.com/spec/v1"), "`git lfs pull`"),
    },
    "not compressed though named .gz, and the reverse": {
        "plain": check(rewritten(gzip.decompress), "Rename it without .gz"),
        "packed": check(
            lambda data: (
                listed(data, unlabeled=[{"image": "u.nii"}]),
                shutil.copy(of(data, "u"), data / "u.nii"),
                data / "u.nii",
            )[2],
            "Add .gz to its name",
        ),
    },
    "a folder named as a file; a folder of no or several DICOM series": {
        "image": check(in_place_of, "no DICOM series", "A scan is a file"),
        "label": check(lambda data: in_place_of(data, "label"), "no DICOM series", "A scan is a file"),
        "two": check(lambda data: series(data, ["1.2.3", "1.2.4"]), "2 DICOM series", "exactly one series"),
    },
    "a file without permission to read": {"image": unreadable},
    "HDF5 without the data set": {"other": check(hdf5, 'no data set "image"', "['picture']", "Name one of them")},
    "NaN or infinite intensities": {
        "nan": check(changed("image", with_value(np.nan)), "NaN or infinite", "Replace them"),
        "infinite": check(changed("image", with_value(-np.inf)), "NaN or infinite", "Replace them"),
    },
    "2D among 3D, 5D, RGB or complex images": {
        "2D": check(changed("image", lambda voxels: voxels[..., 0]), "2D", "Only 3D scans"),
        "5D": check(changed("image", lambda voxels: np.zeros((4, 4, 4, 2, 3), np.float32)), "5D", "Only 3D scans"),
        "RGB": check(changed("image", lambda voxels: np.zeros(SHAPE, [(c, "u1") for c in "RGB"])), "Save one channel"),
        "complex": check(changed("image", lambda voxels: voxels.astype(np.complex64)), "Save the magnitude"),
    },
    "4D where the others (or the network) have one channel": {
        "4D": check(changed("image", lambda voxels: np.stack([voxels] * 2, -1)), "2 channels", "save the right volume"),
        "network": command(
            "check",
            "DATA",
            "--channels=2",
            file="DATA/images/a.nii.gz",
            words=("the network takes 2", "Leave the case out"),
            before=lambda data: listed(data, training=[case("a")], unlabeled=[], test=[]),
        ),
    },
    "an affine that maps nowhere": {"zeros": check(no_affine, "unusable geometry", "Correct spacing")},
    "label and image (or two channels) of different shapes": {
        "label": check(changed("label", lambda voxels: voxels[:-1]), "its image has (8, 7, 6)", "resample it"),
        "channels": check(channels, "its first channel has (8, 7, 6)", "resample it"),
    },
    "label shifted, flipped or of another spacing: a corner more than 0.1 voxel away": {
        name: check(
            changed("label", lambda voxels: voxels, affine), "another affine", "save it with the affine of its image"
        )
        for name, affine in {
            "shifted": AFFINE + np.eye(4, k=3) * 0.2,
            "flipped": AFFINE @ np.diag([1, -1, 1, 1]),
            "spacing": np.eye(4),
        }.items()
    },
    "label values outside `labels`; 255; negative": {
        "3": check(changed("label", with_value(3)), "label values 3 in 1 voxels", 'add the classes to "labels"'),
        "255": check(
            changed("label", with_value(255)),
            "If 255 marks the structure, make the datalist with `dualseg split --values 0,255`",
        ),
        "-1": check(
            changed("label", lambda v: with_value(-1)(v.astype(np.int16))), "label values -1", "Correct the voxels"
        ),
    },
    "label of fractions or NaN; image and label swapped": {
        "fractions": check(changed("label", lambda voxels: voxels / np.float32(2)), "(0.5)", "Save it anew"),
        "nan": check(changed("label", lambda v: with_value(np.nan)(v.astype(np.float32))), "(nan)", "Save it anew"),
        "swapped": check(changed("label", lambda voxels: image(1)), "Is this the image, in the label's place?"),
    },
    "a label of several channels that overlap, or hold other values than 0 and 1": {
        "overlap": check(changed("label", lambda v: np.stack([v > 0, v > 1], -1).astype(np.uint8)), "save one volume"),
        "values": check(changed("label", lambda v: np.stack([v, v], -1).astype(np.uint8)), "Save one volume"),
    },
    "the same voxels under two names in two sections": {"copy": check(copy, "the same voxels as", "remove one")},
    "a scan of another format than NIfTI or HDF5 that the machine has not the memory for": {"nrrd": too_large},
    "a folder without scans; a label without image; two images or labels of one case": {
        "nowhere": command("split", "DATA/no", file="DATA/no", words=("no such file or folder", "Name a folder")),
        "empty": command(
            "split",
            "DATA/images",
            file="DATA/images",
            words=("no images in it", "Looked for"),
            before=lambda data: [path.unlink() for path in (data / "images").iterdir()],
        ),
        "label": command(
            "split",
            "DATA",
            file="DATA/labels/a.nii.gz",
            words=("without an image", "Rename or remove"),
            before=removed("images/a.nii.gz"),
        ),
        "labels": command(
            "split",
            "DATA",
            file="DATA/labels/a_seg.nii.gz",
            words=("a second label of case a", "Keep one"),
            before=lambda data: save(data / "labels" / "a_seg.nii.gz", label()),
        ),
        "images": command(
            "split",
            "DATA",
            file="DATA/images/a_0000.nii.gz",
            words=("a second image of case a", "Rename one"),
            before=lambda data: save(data / "images" / "a_0000.nii.gz", image()),
        ),
    },
    "an image in the labels' folder; label values with a gap (0 and 255)": {
        "image": command(
            "split",
            "DATA",
            file="DATA/labels/a.nii.gz",
            words=("no label file", "Is it an image?"),
            before=in_turn(UNLISTED, lambda data: save(of(data, "a", "label"), image())),
        ),
        "gap": command(
            "split",
            "DATA",
            file="The label files",
            words=("0, 1, 2, 255", "--values 0,1,2,255"),
            before=in_turn(UNLISTED, changed("label", with_value(255))),
        ),
    },
    "a `dataset.json` that is none; a list with a case that has no file, or without any case": {
        "other": command(
            "split",
            "DATA",
            file="DATA/dataset.json",
            words=("not a dataset.json", "Name a folder of images instead"),
            before=text("dataset.json", '{"name": 1}'),
        ),
        "comma": command(
            "split",
            "DATA",
            file="DATA/dataset.json",
            words=("not JSON", "line 1, column 4"),
            before=text("dataset.json", "[1,]"),
        ),
        "list": command(
            "split",
            "DATA/train.list",
            file="DATA/train.list",
            words=("no scan of case x", "Looked beside it"),
            before=text("train.list", "x\n"),
        ),
        "labels": command(
            "split",
            "DATA",
            file="DATA/dataset.json",
            words=("not a dataset.json", "Name a folder of images instead"),
            before=text("dataset.json", '{"labels": ["a"], "training": []}'),
        ),
        "latin": command(
            "split",
            "DATA/train.list",
            file="DATA/train.list",
            words=("cannot be read as UTF-8", "a case name on each line"),
            before=lambda data: (data / "train.list").write_bytes(b"M\xfcller"),
        ),
        "empty list": command(
            "split",
            "DATA/train.list",
            file="DATA/train.list",
            words=("an empty list", "It needs a case name"),
            before=text("train.list", "\n"),
        ),
    },
    "a number of cases that is negative, not whole, no number, more than have a label, or leaves none for training": {
        wish: command("split", "DATA", wish, file=wish.replace("=", " "), words=(words,), before=UNLISTED)
        for wish, words in {
            "--test=-1": "must be a whole number",
            "--labeled=2.5": "must be a whole number",
            "--test=many": "must be a whole number",
            "--labeled=9": "Ask for fewer",
        }.items()
    }
    | {"none left": command("split", "DATA", "--test=3", file="DATA", words=("Ask for fewer",), before=UNLISTED)},
    "a patient pattern that is no regular expression or does not match a name; a patient in two lists of a benchmark": {
        "no pattern": command("split", "DATA", "--group=(a", file="--group", words=("not a regular", "Correct it")),
        "no match": command("split", "DATA", "--group=p1", file="a: the pattern", words=("Correct --group",)),
        "lists": command(
            "split",
            "DATA/train.list",
            "--group=^.",
            file="DATA/train.list",
            words=("patient a is in", "Correct the lists"),
            before=in_turn(text("train.list", "a\nb\n"), text("test.list", "a\n")),
        ),
    },
    "a spacing that is not three positive lengths": {
        "two": command(
            "convert", "DATA", "DATA/out", "--spacing=1,1", file="spacing (1, 1)", words=("e.g. --spacing",)
        ),
        "zero": command(
            "convert", "DATA", "DATA/out", "--spacing=1,1,0", file="spacing", words=("three lengths in mm",)
        ),
    },
    "a report that would replace its datalist": {
        "same": command(
            "check",
            "DATA",
            f"--output=DATA/{JSON}",
            file=f"DATA/{JSON}",
            words=("the datalist itself", "Name another file"),
        ),
    },
    "modalities that are not as many as the channels": {
        "two": call(modality, lambda data: "['CT', 'PET']", "the scans have 1 channels", "--modality"),
    },
    "an output file that exists, or cannot be written": {
        "datalist": command("split", "DATA", file=f"DATA/{JSON}", words=("exists already", "--overwrite")),
        "scan": command("convert", "DATA/images", "DATA/images", file="DATA/images/a.nii.gz", words=("--overwrite",)),
        "file": command(
            "convert",
            "DATA/images",
            f"DATA/{JSON}/out",
            file=f"DATA/{JSON}/out/a.nii.gz",
            words=("Not a directory", "folder of yours"),
        ),
        "report": command(
            "check", "DATA", f"--output=DATA/{JSON}/r.json", file=f"DATA/{JSON}/r.json", words=("cannot be written",)
        ),
    },
    "two scans that would become one file": {
        "formats": command(
            "convert",
            "DATA/images",
            "DATA/out",
            file="DATA/images/a.nii.gz",
            words=("would become", "two folders"),
            before=lambda data: itk.imwrite(itk.imread(str(of(data, "a"))), str(data / "images" / "a.mha")),
        ),
    },
    "a release whose folder or files are missing, or a list that names a case it has not": {
        "folder": command(*RAW, file="DATA/raw", words=("no such folder", "--source")),
        "no source": command(*RAW[:3], file="left_atrium", words=("must be downloaded by you", "--source")),
        "cases": command(*RAW, file="DATA/raw", words=("no case of", "CASE/lgemri.nrrd"), before=text("raw/x", "")),
        "label": command(
            *RAW,
            file="DATA/raw/a/laendo.nrrd",
            words=("no such file", "Copy it there"),
            before=lambda data: (atrial_case(data / "raw" / "a"), (data / "raw/a/laendo.nrrd").unlink()),
        ),
        "list": command(
            *RAW,
            file="DATA/raw/train.list",
            words=("b is not in the release", "correct the list"),
            before=lambda data: (atrial_case(data / "raw" / "a"), text("raw/train.list", "b\n")(data)),
        ),
        "name": command(
            "prepare", "heart", "DATA/out", "--source=DATA", file="heart", words=("Name one of left_atrium",)
        ),
    },
    "a folder that holds another preparation": {
        "other": command(
            *RAW,
            file="DATA/out",
            words=("Name another folder",),
            before=in_turn(
                lambda data: atrial_case(data / "raw" / "a"), text("out/preparation.json", '{"dataset": "pancreas"}')
            ),
        ),
    },
    "a label of another patient's CT; slices whose numbers and positions disagree": {
        "label": command(
            "prepare",
            "pancreas",
            "DATA/out",
            "--source=DATA/raw",
            file="label0003.nii.gz",
            words=("of another patient?",),
            before=lambda data: (
                pancreas_case(data / "raw", 3),
                save(next((data / "raw").rglob("label0003.nii.gz")), air_of((30, 26, 12))),
            ),
        ),
        "slices": command(
            "prepare",
            "pancreas",
            "DATA/out",
            "--source=DATA/raw",
            file="PANCREAS_0003",
            words=("different orders", "Download it"),
            before=lambda data: (
                pancreas_case(data / "raw", 3),
                write_slice(next((data / "raw").rglob("1-002.dcm")), image(0, (26, 30, 1))[..., 0], 99, 15.0),
            ),
        ),
    },
    "a Decathlon task that does not exist; an archive that is missing or damaged; no network": {
        "task": command(
            "prepare", "decathlon:Task11", "DATA/out", file="Task11", words=("Name one of Task01_BrainTumour",)
        ),
        "missing": command(
            "prepare",
            "decathlon:Task04",
            "DATA/out",
            "--source=DATA/x.tar",
            file="DATA/x.tar",
            words=("Name the archive",),
        ),
        "damaged": command(
            "prepare",
            "decathlon:Task04",
            "DATA/out",
            "--source=DATA/x.tar",
            file="DATA/x.tar",
            words=("MD5", "Remove it"),
            before=text("x.tar", "x"),
        ),
        "network": lambda data, patch: (
            patch.setattr("scripts.data.releases.decathlon.download_url", refuse_to_connect),
            (
                ["prepare", "decathlon:Task04", data / "out"],
                "Task04_Hippocampus.tar",
                ("cannot be downloaded", "--source"),
            ),
        )[1],
    },
    "inference: no scan, a channel missing, two scans whose results would get one name": {
        "folder": call(lambda data: find_images(str(data / "no")), lambda data: data / "no", "Correct --dataset_dir"),
        "empty": call(lambda data: find_images(str(data)), lambda data: data, "no scan in it", "Needed are files"),
        "channel": call(
            lambda data: (shutil.move(of(data), data / "x_0000.nii.gz"), find_images(str(data), 2)),
            lambda data: data / "x_0001.nii.gz",
            "Copy it there",
        ),
        "names": call(
            lambda data: (text("images/a.nrrd", "")(data), find_images(str(data / "images"))),
            lambda data: data / "images" / "a.nrrd",
            "Rename one of them",
        ),
    },
    "a model that is missing": {
        "file": call(lambda data: find_weights(str(data / "m.pt")), lambda data: data / "m.pt", "--ckpt_path"),
    },
    "a folder for runs or predictions that cannot be written to": {
        "predictions": call(
            lambda data: claim_folder(str(data / JSON / "out")),
            lambda data: data / JSON / "out",
            "Name another --output_dir",
        ),
    },
}


def refuse_to_connect(*arguments, **options):
    from urllib.error import URLError

    raise URLError("no route to host")


KINDS = [(row, kind) for row, kinds in ROWS.items() for kind in kinds]


def rows_of_the_documentation(bundle_root: Path) -> list[str]:
    tables = re.findall(
        r"^\| wrong \|.*\n\|---\|---\|\n((?:\|.*\n)+)", (bundle_root / "docs" / "data.md").read_text(), re.M
    )
    return [line.split(" | ")[0].removeprefix("| ") for table in tables for line in table.splitlines()]


ELSEWHERE = {
    "a mistyped option, or a word too many": "test_split.py::test_a_mistyped_option_writes_nothing, exit code 2",
    "a full disk": "test_split.py, test_prepare.py, test_run_folder.py, ../test_bad_input.py",
}


def test_every_row_is_tested_and_every_test_documented(bundle_root):
    rows = rows_of_the_documentation(bundle_root)
    assert sorted(rows) == sorted([*ROWS, *ELSEWHERE])
    assert len(KINDS) >= 40


@pytest.mark.parametrize(("row", "kind"), KINDS, ids=lambda name: name[:40])
def test_bad_input(data, monkeypatch, capsys, row, kind):
    action, file, words = ROWS[row][kind](data, monkeypatch)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    if callable(action):
        with pytest.raises(DataError) as caught:
            action()
        message = str(caught.value)
    else:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in action])
        shown = capsys.readouterr()
        assert ended.value.code == 1, shown
        assert "Traceback" not in shown.out + shown.err
        message = shown.out + shown.err
        assert len(re.findall(r"^error: |^Error: ", message, re.M | re.I)) == 1, message
    assert str(file) in message, message
    assert all(word in message for word in words), message
    assert all(path.read_bytes() == content for path, content in before.items() if path.exists())


REPAIRED = {
    "blanks and letters of any script in names": lambda data: (
        [path.rename(path.with_name(f"Müller 医 {path.name}")) for path in sorted(data.rglob("*.nii.gz"))],
        UNLISTED(data),
    ),
    "labels as floating-point whole numbers": changed("label", lambda voxels: voxels.astype(np.float32)),
    "files that macOS leaves on shared disks": lambda data: (data / "images" / "._a.nii.gz").write_bytes(b"\0"),
    "a byte order mark in JSON": lambda data: (data / JSON).write_bytes(b"\xef\xbb\xbf" + (data / JSON).read_bytes()),
    "a labelled scan without foreground": changed("label", np.zeros_like),
    "a scan of a single slice": lambda data: (
        save(of(data), image(1, (8, 7, 1))),
        save(of(data, role="label"), label((8, 7, 1))),
    ),
    "a last axis of length 1": changed("image", lambda voxels: voxels[..., None]),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_what_is_taken_as_it_is(data, bundle_root, capsys, kind):
    assert f"- {kind}" in (bundle_root / "docs" / "data.md").read_text()
    REPAIRED[kind](data)
    for words in ([] if (data / JSON).exists() else [["split", data]]) + [["check", data]]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        shown = capsys.readouterr()
        assert ended.value.code == 0, shown
    assert "0 errors" in shown.out
