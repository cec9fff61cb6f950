# SPDX-License-Identifier: Apache-2.0
"""Crops are the same wherever scans are kept; what has changed or is damaged is never taken for what was kept."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from monai.data import set_rnd
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapTransform,
    NormalizeIntensityd,
    RandAffineGrid,
)

from scripts.data import (
    ClassCountsd,
    DataError,
    DiskCacheDataset,
    NamedCacheDataset,
    RandAffineCropd,
    cached_dataset,
    check_data,
    inspect_data,
)
from scripts.data.caching import choice
from scripts.data.caching.choice import cached_gigabytes
from scripts.data.datalist import check
from scripts.data.io import content
from scripts.data.io.content import content_key, described
from scripts.data.io.findings import Findings

KEYS = ["image", "label"]
SHAPE = (12, 11, 10)


@pytest.fixture
def scans(tmp_path):
    generator = np.random.default_rng(0)
    for name in "abc":
        image, label = generator.normal(size=SHAPE), generator.integers(0, 2, SHAPE)
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), np.eye(4)), tmp_path / f"{name}.nii")
        nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), np.eye(4)), tmp_path / f"{name}_label.nii")
    return [{"image": str(tmp_path / f"{name}.nii"), "label": str(tmp_path / f"{name}_label.nii")} for name in "abc"]


def transforms(load=None, size=(8, 8, 8), nonzero=False):
    return Compose(
        [
            load or LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS),
            NormalizeIntensityd("image", nonzero=nonzero),
            EnsureTyped(KEYS, track_meta=False),
            ClassCountsd("label", 2),
            RandAffineCropd(KEYS, size, RandAffineGrid([0.3] * 3), 0.5, ["bilinear", "nearest"], "label"),
        ]
    )


class CountedLoad(MapTransform):
    """LoadImaged that counts what it reads."""

    def __init__(self):
        super().__init__(KEYS)
        self.load = LoadImaged(KEYS)
        self._read = []

    def __call__(self, data):
        READ.append(data["image"])
        return self.load(data)


READ = []


@pytest.fixture(autouse=True)
def nothing_read():
    READ.clear()


@pytest.fixture
def keep_all(monkeypatch):
    monkeypatch.setattr(check, "_WORTH_KEEPING", 0.0)


def crops(dataset, count=9):
    set_rnd(dataset, 5)
    return [dataset[number % len(dataset)] for number in range(count)]


def same(one, other):
    return all(
        set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, other, strict=True)
    )


def test_crops_are_the_same_in_memory_on_disk_and_read_anew(scans, tmp_path):
    found = [
        crops(cached_dataset(scans, transforms(), cache, tmp_path / "cache", num_workers=1))
        for cache in ("memory", "disk", "disk", "none")  # made, and read
    ]
    assert all(same(found[0], other) for other in found[1:])
    assert not same(found[0][:8], found[0][1:])


def test_a_scan_is_read_once_by_all_datasets_of_a_folder(scans, tmp_path):
    for _ in range(2):
        crops(DiskCacheDataset(scans, transforms(CountedLoad()), tmp_path / "cache"))
    assert sorted(READ) == [scan["image"] for scan in scans]


def test_what_a_transform_writes_into_a_kept_scan_stays_there(scans, tmp_path):
    dataset = DiskCacheDataset(scans, transforms(), tmp_path / "cache")
    dataset._cachecheck(scans[0])["image"].fill_(7)
    assert dataset._cachecheck(scans[0])["image"].max() < 7


def test_changed_scans_and_settings_are_computed_anew(scans, tmp_path):
    folder = tmp_path / "cache"
    before = crops(DiskCacheDataset(scans, transforms(CountedLoad()), folder))
    crops(DiskCacheDataset(scans, transforms(CountedLoad(), nonzero=True), folder))
    assert len(READ) == 6
    crops(DiskCacheDataset(scans, transforms(CountedLoad(), size=(4, 4, 4)), folder))
    assert len(READ) == 6  # the crop's size is no setting of what is kept
    other = nibabel.Nifti1Image(np.ones(SHAPE, np.float32).cumsum(0), np.eye(4))
    nibabel.save(other, scans[0]["image"])  # as many bytes
    after = crops(DiskCacheDataset(scans, transforms(CountedLoad()), folder))
    assert READ[6:] == [scans[0]["image"]]
    assert not same(before[:1], after[:1]) and same(before[1:3], after[1:3])


def test_a_change_of_code_is_another_key(scans, monkeypatch):
    key = content_key([scans[0]["image"]], 1)
    assert key == content_key([scans[0]["image"]], 1) != content_key([scans[1]["image"]], 1)
    monkeypatch.setattr(content, "_code", lambda: ["another"])
    assert key != content_key([scans[0]["image"]], 1)


def test_a_dicom_folder_is_known_by_its_files(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"one")
    keys = [content_key([str(tmp_path / "series")], None)]
    (tmp_path / "series" / "2.dcm").write_bytes(b"two")
    keys.append(content_key([str(tmp_path / "series")], None))
    os.utime(tmp_path / "series" / "1.dcm", ns=(1, 1))
    keys.append(content_key([str(tmp_path / "series")], None))
    assert len(set(keys)) == 3


@pytest.mark.parametrize("damage", [b"", b"not a file of torch", None])
def test_a_damaged_file_is_made_anew(scans, tmp_path, caplog, damage):
    folder = tmp_path / "cache"
    before = crops(DiskCacheDataset(scans[:1], transforms(), folder))
    [file] = folder.rglob("*.pt")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert same(before, crops(DiskCacheDataset(scans[:1], transforms(), folder)))
    assert f"{file}: cannot be read" in caplog.text


def test_no_code_of_a_kept_file_is_run(scans, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    folder = tmp_path / "cache"
    before = crops(DiskCacheDataset(scans[:1], transforms(), folder))
    [file] = folder.rglob("*.pt")
    torch.save({"image": Evil()}, file)
    assert same(before, crops(DiskCacheDataset(scans[:1], transforms(), folder)))
    assert not (tmp_path / "evil").exists()


def test_other_data_leave_the_folder_as_it_is(scans, tmp_path):
    dataset = DiskCacheDataset(scans[:1], transforms(), tmp_path / "cache")
    crops(dataset)
    dataset.set_data(scans[1:])
    crops(dataset)
    assert len(list((tmp_path / "cache").rglob("*.pt"))) == 3


def test_settings_are_described_alike_in_every_process():
    code = (
        "import json, tests.data.test_caching as t; from scripts.data.io.content import described;"
        "print(json.dumps(described(t.transforms().transforms[:5])))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(texts) == 1
    assert " at 0x" not in str(texts) and "NormalizeIntensity" in str(texts)
    assert described({"a": {2, 1}, "b": np.float32(1)}) == [["a", ["1", "2"]], ["b", 1.0]]


@pytest.mark.parametrize(
    ("memory", "room", "kind"), [(1e9, 1e9, NamedCacheDataset), (20e3, 1e9, DiskCacheDataset), (20e3, 1e3, None)]
)
def test_the_choice_follows_memory_and_disk_and_is_told(scans, tmp_path, monkeypatch, caplog, memory, room, kind):
    needed = 3 * 2 * np.prod(SHAPE) * 4 / 1e9  # 31.7 kB
    assert cached_gigabytes(scans, [1.0] * 3) == pytest.approx(needed)
    monkeypatch.setattr(choice, "available_memory", lambda: memory)
    monkeypatch.setattr(choice.shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    with caplog.at_level(logging.INFO):
        dataset = cached_dataset(scans, transforms(), "auto", tmp_path / "cache", name="labelled scans")
    chosen = {NamedCacheDataset: "memory", DiskCacheDataset: "disk", None: "none"}[kind]
    assert f"Cache of 3 labelled scans: {chosen}. They take" in caplog.text
    assert isinstance(dataset, kind or NamedCacheDataset)
    assert getattr(dataset, "cache_num", 0) == (3 if chosen == "memory" else 0)
    without_disk = cached_dataset(scans, transforms(), "auto", tmp_path / "cache", on_disk=False)
    assert without_disk.cache_num == (3 if chosen == "memory" else 0)


def test_processes_of_a_machine_share_its_memory(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "available_memory", lambda: 100e3)
    assert isinstance(cached_dataset(scans, transforms(), "auto", tmp_path), NamedCacheDataset)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert isinstance(cached_dataset(scans, transforms(), "auto", tmp_path), DiskCacheDataset)


def test_the_estimate_knows_grid_patch_and_labels(scans):
    images = [{"image": scan["image"]} for scan in scans]
    voxels = np.prod(SHAPE)
    assert cached_gigabytes(images, [1.0] * 3) == pytest.approx(3 * 4 * voxels / 1e9)
    assert cached_gigabytes(images, [2.0, 1.0, 1.0]) == pytest.approx(3 * 4 * voxels / 2 / 1e9)
    assert cached_gigabytes(images, [1.0] * 3, [32] * 3) == pytest.approx(3 * 4 * 32**3 / 1e9)
    assert cached_gigabytes([], [1.0] * 3) == 0
    assert cached_gigabytes([{"image": "nowhere.nii"}], [1.0] * 3) == 0  # which the check names


def test_another_word_for_a_cache_is_refused(scans):
    with pytest.raises(DataError, match="cache: 'ram' is none of auto, memory, disk, none"):
        cached_dataset(scans, transforms(), "ram")


def datalist(scans):
    return {"labels": {0: "background", 1: "one"}, "training": scans}


def test_a_second_check_reads_only_what_has_changed(scans, tmp_path, monkeypatch, keep_all):
    opened = []
    real = check.open_volume
    monkeypatch.setattr(check, "open_volume", lambda file: opened.append(Path(file).name) or real(file))
    first = check_data(datalist(scans), progress=False, cache_dir=tmp_path / "cache")
    assert len(opened) == 6
    second = check_data(datalist(scans), progress=False, cache_dir=tmp_path / "cache")
    assert len(opened) == 6
    assert second == first
    os.utime(scans[1]["label"], ns=(1, 1))
    check_data(datalist(scans), progress=False, cache_dir=tmp_path / "cache")
    assert opened[6:] == ["b.nii", "b_label.nii"]
    other = {**datalist(scans), "labels": {0: "background", 1: "one", 2: "two"}}
    inspect_data(other, progress=False, cache_dir=tmp_path / "cache")
    assert len(opened) == 8 + 6


def test_copies_and_other_sections_are_found_among_kept_findings(scans, tmp_path, keep_all):
    check_data(datalist(scans), progress=False, cache_dir=tmp_path / "cache")
    moved = {**datalist(scans[:2]), "test": scans[2:]}
    assert check_data(moved, progress=False, cache_dir=tmp_path / "cache").cases[2].section == "test"
    Path(scans[2]["image"]).write_bytes(Path(scans[0]["image"]).read_bytes())
    for _ in range(2):
        with pytest.raises(DataError, match="the same voxels"):
            check_data(moved, progress=False, cache_dir=tmp_path / "cache")


def test_what_is_wrong_is_looked_at_again(scans, tmp_path, keep_all):
    good = Path(scans[0]["image"]).read_bytes()
    state = os.stat(scans[0]["image"])
    Path(scans[0]["image"]).write_bytes(good[:-100] + np.full(25, np.nan, np.float32).tobytes())
    os.utime(scans[0]["image"], ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DataError, match="NaN"):
        check_data(datalist(scans), progress=False, cache_dir=tmp_path / "cache")
    Path(scans[0]["image"]).write_bytes(good)
    os.utime(scans[0]["image"], ns=(state.st_atime_ns, state.st_mtime_ns))
    check_data(datalist(scans), progress=False, cache_dir=tmp_path / "cache")


def test_a_short_check_leaves_no_file(scans, tmp_path):
    check_data(datalist(scans), progress=False, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_findings_are_written_together_once_they_have_taken_long(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("scripts.data.io.findings.time.monotonic", lambda: now[0])
    findings = Findings(tmp_path / "found.txt", seconds=10)
    findings["a"] = {"x": 1}
    assert not findings.path.exists()
    now[0] = 11.0
    findings["b"] = {"x": 2}
    again = Findings(tmp_path / "found.txt")
    assert (again["a"], again["b"]) == ({"x": 1}, {"x": 2})


def test_a_line_that_was_cut_off_is_as_if_never_written(tmp_path):
    path = tmp_path / "found.txt"
    findings = Findings(path)
    findings["a"], findings["b"] = {"x": 1}, {"x": [2, None]}
    path.write_bytes(path.read_bytes()[:-4])
    again = Findings(path)
    assert (again["a"], again["b"], again["c"]) == ({"x": 1}, None, None)
    again["b"] = {"x": 3}
    assert json.loads(json.dumps(Findings(path)["a"])) == {"x": 1}


def test_without_a_file_nothing_is_kept():
    findings = Findings(None)
    findings["a"] = {}
    assert findings["a"] is None
