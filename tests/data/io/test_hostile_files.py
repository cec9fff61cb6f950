# SPDX-License-Identifier: Apache-2.0
"""Files that reach beyond themselves, claim too much or never end: refused or read, soon and in little memory."""

import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid

SIDE = 8
HUGE = 30_000
SECRET = "secret.raw"  # outside of the folder of the scans
META = "ObjectType = Image\nNDims = 3\nDimSize = {0} {0} {0}\nElementType = MET_UCHAR\n"
NRRD = "NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: {0} {0} {0}\nspace: left-posterior-superior\n"
NRRD += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\n"
DIRECTIONS = "ElementSpacing = 1 1 1\n"


def nifti(path, shape=(SIDE,) * 3, claimed=None, affine=None, dtype=np.uint8):
    """A NIfTI file whose header claims another shape."""
    image = nibabel.Nifti1Image(np.ones(shape, dtype), np.eye(4) if affine is None else affine)
    nibabel.save(image, path)
    if claimed:
        opened = gzip.open if path.name.endswith(".gz") else open
        with opened(path, "rb") as file:
            content = bytearray(file.read())
        struct.pack_into("<3h", content, 42, *claimed)
        with opened(path, "wb") as file:
            file.write(content)


def nowhere(path):
    nifti(path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<4f", content, 280, float("nan"), 0, 0, 0)  # the first row of the sform
    path.write_bytes(content)


def zeros_without_end(path, shape, gibibytes):
    """A sound file, and after its voxels zeros that unpack to gibibytes."""
    nifti(path, shape)
    member = gzip.compress(bytes(2**26))
    with path.open("ab") as file:
        for _ in range(gibibytes * 16):
            file.write(member)


def garbage_without_end(path):
    path.write_bytes(gzip.compress(b"no scan" * 100) + gzip.compress(bytes(2**26)) * 64)


def mgh(path):
    image = nibabel.MGHImage(np.ones((SIDE,) * 3, np.uint8), np.eye(4))
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    struct.pack_into(">3i", content, 4, HUGE, HUGE, HUGE)
    path.write_bytes(content)


def pair(path):
    """The header of a pair, whose voxels are nowhere near."""
    nibabel.save(nibabel.Nifti1Pair(np.ones((SIDE,) * 3, np.uint8), np.eye(4)), path)
    header = path.with_suffix(".hdr")
    content = bytearray(header.read_bytes())
    struct.pack_into("<3h", content, 42, 1000, 1000, 1000)
    header.write_bytes(content)


def h5(change):
    def write(path):
        with h5py.File(path, "w") as file:
            change(path, file)

    return write


def external_link(path, file):
    with h5py.File(path.parent.parent / "other.h5", "w") as other:
        other["image"] = np.ones((SIDE,) * 3)
    file["image"] = h5py.ExternalLink(str(path.parent.parent / "other.h5"), "image")


def external_voxels(path, file):
    file.create_dataset("image", (SIDE,) * 3, "u1", external=[(str(path.parent.parent / SECRET), 0, SIDE**3)])


def virtual(path, file):
    layout = h5py.VirtualLayout((SIDE,) * 3, "u1")
    layout[:] = h5py.VirtualSource(str(path.parent.parent / "other.h5"), "image", (SIDE,) * 3)
    file.create_virtual_dataset("image", layout)


def soft_link(path, file):
    file["there"] = h5py.ExternalLink(str(path.parent.parent / "other.h5"), "/")
    file["image"] = h5py.SoftLink("/there/image")


def compound(path, file):
    file["image"] = np.zeros((SIDE,) * 3, [("a", "f4"), ("b", "f4")])


def huge_chunk(path, file):
    file.create_dataset("image", (1024, 1024, 1024), "u1", chunks=(1024, 1024, 1024), compression="gzip", fillvalue=1)
    file["image"].id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(2**30), 1))


def dicom(path, rows, syntax=ExplicitVRLittleEndian, zeros=0):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    one = pydicom.Dataset()
    one.file_meta, one.SOPClassUID, one.SOPInstanceUID = meta, CTImageStorage, meta.MediaStorageSOPInstanceUID
    one.SeriesInstanceUID, one.Modality, one.Rows, one.Columns = generate_uid(), "CT", rows, rows
    one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 0
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.SliceThickness, one.PixelSpacing = 15, 1, [1, 1]
    one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    one.PixelData = bytes(max(zeros, SIDE * SIDE * 2))
    one.save_as(path, enforce_file_format=True)


def text(header, data=b""):
    return lambda path: path.write_bytes(header.encode() + data)


def pointing(header, target):
    """A header whose voxels are in another file."""

    def write(path):
        path.write_text(header + str(target(path)) + "\n")

    return write


def outside(path):
    return path.parent.parent / SECRET


def pipe_beside(path):
    os.mkfifo(path.parent / "pipe.raw")
    return "pipe.raw"


VOXELS = bytes(range(256)) * 2
MHD = META.format(SIDE) + DIRECTIONS + "ElementDataFile = "
NHDR = NRRD.format(SIDE) + "encoding: raw\ndata file: "
# name of the file: (how it is made, what it is to say; None where it is to be read)
PROBES = {
    "claims.nii": (lambda p: nifti(p, claimed=(HUGE,) * 3), "claims"),
    "claims.nii.gz": (lambda p: nifti(p, claimed=(HUGE,) * 3), "claims"),
    "claims_less.nii.gz": (lambda p: nifti(p, claimed=(1000,) * 3), "claims"),
    "claims.mgh": (mgh, "claims"),
    "claims.img": (pair, "claims"),
    "claims.nrrd": (text(NRRD.format(HUGE) + "encoding: raw\n\n", VOXELS), "claims|too much"),
    "claims_less.nrrd": (text(NRRD.format(1000) + "encoding: raw\n\n", VOXELS), "claims"),
    "claims_packed.nrrd": (text(NRRD.format(1000) + "encoding: gzip\n\n", gzip.compress(VOXELS)), "claims"),
    "claims.mha": (text(META.format(1000) + DIRECTIONS + "ElementDataFile = LOCAL\n", VOXELS), "claims"),
    "claims.dcm": (lambda p: dicom(p, 60_000), "claims|too much"),
    "unpacks.dcm": (lambda p: dicom(p, SIDE, DeflatedExplicitVRLittleEndian, 2**30), "deflated"),
    "tail.nii.gz": (lambda p: zeros_without_end(p, (SIDE,) * 3, 4), "goes on after its last voxel"),
    "garbage.nii.gz": (garbage_without_end, "cannot be read|truncated"),
    "outside.mhd": (pointing(MHD, outside), "outside its folder"),
    "upwards.mhd": (pointing(MHD, lambda p: f"../{SECRET}"), "outside its folder"),
    "passwords.mhd": (pointing(MHD, lambda p: "/etc/passwd"), "outside its folder"),
    "outside.nhdr": (pointing(NHDR, outside), "outside its folder"),
    "list.nhdr": (pointing(NHDR + "LIST\n", outside), "outside its folder"),
    "pattern.nhdr": (pointing(NHDR, lambda p: f"../%d{SECRET} 0 1 1"), "outside its folder"),
    "to_pipe.mhd": (pointing(MHD, pipe_beside), "no file"),
    "pipe.nii.gz": (lambda p: os.mkfifo(p), "a pipe"),
    "pipe.h5": (lambda p: os.mkfifo(p), "a pipe"),
    "pipe.nrrd": (lambda p: os.mkfifo(p), "a pipe"),
    "pipe.dcm": (lambda p: os.mkfifo(p), "a pipe"),
    "link.h5": (h5(external_link), "a link"),
    "elsewhere.h5": (h5(external_voxels), "in other files"),
    "virtual.h5": (h5(virtual), "in other files"),
    "soft.h5": (h5(soft_link), "a link"),
    "empty.h5": (h5(lambda p, f: f.create_dataset("image", (HUGE,) * 3, "u1", chunks=(64,) * 3)), "declares"),
    "chunk.h5": (h5(huge_chunk), "piece"),
    "group.h5": (h5(lambda p, f: f.create_group("image")), "no data set of numbers"),
    "text.h5": (h5(lambda p, f: f.create_dataset("image", data=["a"] * 3)), "no data set of numbers"),
    "compound.h5": (h5(compound), "no data set of numbers"),
    "scalar.h5": (h5(lambda p, f: f.create_dataset("image", data=1.0)), "0D"),
    "unsized.mha": (text(META.format(SIDE) + "ElementDataFile = LOCAL\n", VOXELS), None),
    "tiny.mha": (
        text(META.format(SIDE) + "ElementSpacing = 1e-30 1 1\nElementDataFile = LOCAL\n", VOXELS),
        "voxels of|unusable geometry",
    ),
    "vast.nii": (lambda p: nifti(p, affine=np.diag([1e30, 1, 1, 1])), "voxels of|unusable geometry"),
    "nowhere.nii": (nowhere, "unusable geometry"),
    "flat.nrrd": (
        text((NRRD.format(SIDE) + "encoding: raw\n\n").replace("(0,0,1)", "(0,0,0)"), VOXELS),
        "unusable geometry|cannot be read",
    ),
    "sound.nii.gz": (nifti, None),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, bundle_root):
    folder = tmp_path_factory.mktemp("hostile") / "scans"
    folder.mkdir()
    (folder.parent / SECRET).write_bytes(VOXELS)
    paths = []
    for name, (write, _) in PROBES.items():
        write(folder / name)
        paths.append(f"{folder / name}{'::image' * name.endswith('.h5')}")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("read_each.py"))],
        input=json.dumps(paths),
        cwd=bundle_root,
        env={**os.environ, "PYTHONPATH": str(bundle_root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    names = ("seconds", "mebibytes", "outcome", "text")
    found = [SimpleNamespace(**dict(zip(names, one, strict=True))) for one in json.loads(done.stdout)]
    return dict(zip(PROBES, found, strict=True))


@pytest.mark.parametrize("name", PROBES)
def test_a_hostile_file_is_refused_or_read_soon_and_in_little_memory(outcomes, name):
    got, words = outcomes[name], PROBES[name][1]
    assert got.outcome == ("read" if words is None else "refused"), got
    assert got.seconds < 10 and got.mebibytes < 400, got
    if words is not None:
        assert any(word in got.text for word in words.split("|")), got.text
        assert name.split(".")[0] in got.text


def test_a_voxel_size_that_is_not_in_the_file_is_said(outcomes):
    assert "no voxel size in its header, taken as 1 mm" in outcomes["unsized.mha"].text
