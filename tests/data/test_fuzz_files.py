# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every format end in a DataError, or are read with the geometry that their header says."""

from __future__ import annotations

import json
import random
import time
import warnings
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
from raw_scans import write_plane

from scripts.data import DataError, collect_cases, inspect_data, load_datalist, open_volume

SHAPE = (7, 6, 5)
AFFINE = np.array([[-1.5, 0, 0, 9], [0, 2, 0.1, -8], [0, -0.1, 2, 7], [0, 0, 0, 1.0]])
SLOWEST = 20.0
"""Seconds for one file, on a busy machine; a hang is longer."""


def samples(folder: Path) -> dict[str, bytes]:
    """{name: content} of a sound file of each format."""
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 300, SHAPE).astype(np.int16)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), folder / name)
    nibabel.save(nibabel.Nifti2Image(voxels, AFFINE), folder / "second.nii")
    nibabel.save(nibabel.MGHImage(voxels, AFFINE), folder / "a.mgz")
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((1.5, 2, 2.5))
    for name in ("a.nrrd", "a.mha"):
        SimpleITK.WriteImage(image, str(folder / name))
    SimpleITK.WriteImage(image, str(folder / "packed.nrrd"), useCompression=True)
    write_plane(folder / "a.dcm", voxels[..., 0], (1, 2, 3))
    with h5py.File(folder / "a.h5", "w") as file:
        file["image"], file["label"] = voxels.astype(np.float32), (voxels > 100).astype(np.uint8)
    content = {
        "labels": {"0": "background", "1": "organ"},
        "training": [{"image": "a.nii", "label": "a.nii.gz"}],
        "unlabeled": [{"image": ["a.nii", "second.nii"]}],
        "modality": ["MRI"],
        "values": [0, 255],
    }
    (folder / "datalist.json").write_text(json.dumps(content))
    content = {"labels": {"background": 0, "organ": 1}, "channel_names": {"0": "T1"}, "file_ending": ".nii"}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "table.csv").write_text("image,label,section\na.nii,a.nii.gz,train\nsecond.nii,,\n")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def changed(content: bytes, chance: random.Random) -> bytes:
    """The content with one to three random changes; half of them in the first 400 bytes, where the header is."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(max(1, min(len(data), 400) if chance.random() < 0.5 else len(data)))
        kind = chance.randrange(6)
        if kind == 0:
            data[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            data[place : place + 1] = bytes([(data[place] if place < len(data) else 0) ^ 1 << chance.randrange(8)])
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + chance.randint(1, 8)]
        elif kind == 4:
            data[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
        else:
            value = chance.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"-1", b"nan", b"1e9", b"[]"])
            data[place : place + len(value)] = value
    return bytes(data)


def says(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and voxel size by the header, read by nibabel or SimpleITK."""
    if path.suffix in (".nii", ".gz", ".mgz"):
        image = nibabel.load(path)
        scale = {1: 1e3, 3: 1e-3}.get(int(image.header["xyzt_units"]) & 7, 1) if path.suffix != ".mgz" else 1
        return image.shape[:3], np.linalg.norm(image.affine[:3, :3], axis=0) * scale
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes = np.array(reader.GetDirection()).reshape(reader.GetDimension(), -1)[:3, :3]
    return reader.GetSize()[:3], np.abs(reader.GetSpacing()[:3]) * np.linalg.norm(
        axes, axis=0
    )  # axes may be longer than 1


def read(path: Path) -> None:
    """Read a file as check and split do; raises what is no DataError."""
    if path.name == "datalist.json":
        inspect_data(load_datalist(path), progress=False, workers=1)
    elif path.suffix in (".json", ".csv"):
        collect_cases(path)
    else:
        with open_volume(f"{path}::image" if path.suffix == ".h5" else path) as volume:
            voxels = sum(slab.size for slab in volume.slabs())
        assert voxels == np.prod(volume.shape) * volume.channels
        if path.suffix not in (".h5", ".dcm"):
            shape, spacing = says(path)
            assert tuple(shape) == volume.shape and np.allclose(spacing, volume.spacing, rtol=1e-3)


def fuzz(folder: Path, seconds: float, seed: int) -> dict[str, int]:
    """Damage files until the time is over; how many were refused, and how many read."""
    chance, sound = random.Random(seed), samples(folder)
    counts = {"refused": 0, "read": 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, content in sound.items():
            path = folder / name
            path.write_bytes(changed(content, chance))
            start = time.monotonic()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(path)
                counts["read"] += 1
            except DataError:
                counts["refused"] += 1
            except BaseException:
                kept = folder.parent / f"failed_{name}"
                kept.write_bytes(path.read_bytes())
                print(f"the file is kept as {kept}")
                raise
            finally:
                path.write_bytes(content)
            assert time.monotonic() - start < SLOWEST, name
    return counts


def test_damaged_files_for_five_seconds(tmp_path):
    (tmp_path / "files").mkdir()
    counts = fuzz(tmp_path / "files", 5, seed=1)
    assert counts["refused"] > 5 and counts["read"] > 1


@pytest.mark.slow
def test_damaged_files_for_a_minute(tmp_path):
    (tmp_path / "files").mkdir()
    counts = fuzz(tmp_path / "files", 60, seed=2)
    assert counts["refused"] > 20 and counts["read"] > 10
