# SPDX-License-Identifier: Apache-2.0
"""Where NIfTI's voxels lie: scan and result at one place in nibabel and in ITK, whichever form each follows."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from monai.transforms import LoadImage

from scripts.data import DataError, convert_scans, open_volume
from scripts.data.io.formats.nifti import is_own_result, mm_affine, save_nifti

VOXELS = np.arange(6 * 8 * 7, dtype=np.int16).reshape(6, 8, 7)
ROTATED = np.array([[0, -0.5, 0, 12.0], [0.7, 0, 0, -3.0], [0, 0, 2.0, 40.0], [0, 0, 0, 1]])


def two_forms(path: Path) -> None:
    moved = np.eye(4)
    moved[:3, 3] = 10, -5, 3
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    image.set_sform(np.eye(4), 2)
    image.set_qform(moved, 1)
    nibabel.save(image, path)


def no_form(path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, None)
    image.header.set_zooms((1, 2, 3))
    nibabel.save(image, path)


def qform_only(path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, ROTATED)
    image.set_sform(None, 0)
    image.set_qform(ROTATED, 3)
    nibabel.save(image, path)


def micrometres(path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, np.diag([500.0, 500, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)


@pytest.mark.parametrize("kind", [two_forms, no_form, qform_only, micrometres])
def test_a_result_lies_on_its_scan_in_every_program(tmp_path, kind):
    scan, result = tmp_path / "scan.nii.gz", tmp_path / "result.nii.gz"
    kind(scan)
    save_nifti(VOXELS.astype(np.uint8), mm_affine(nibabel.load(scan)), result, like=scan)
    for form in ("get_sform", "get_qform"):
        (mine, code), (theirs, wanted) = (getattr(nibabel.load(f), form)(coded=True) for f in (result, scan))
        assert code == wanted
        assert mine is theirs is None or np.allclose(mine, theirs)
    first, second = (SimpleITK.ReadImage(str(file)) for file in (scan, result))
    for fact in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(first, fact)() == pytest.approx(getattr(second, fact)())


def test_a_grid_of_another_format_is_written_as_both_forms(tmp_path):
    save_nifti(VOXELS, ROTATED, tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert (image.get_sform(coded=True)[1], image.get_qform(coded=True)[1]) == (1, 1)
    assert np.allclose(image.get_sform(), ROTATED) and np.allclose(image.get_qform(), ROTATED, atol=1e-5)
    sheared = ROTATED.copy()
    sheared[0, 2] = 0.4
    save_nifti(VOXELS, sheared, tmp_path / "b.nii.gz")
    image = nibabel.load(tmp_path / "b.nii.gz")
    assert image.get_qform(coded=True)[1] == 0 and np.allclose(image.affine, sheared)


def test_lengths_are_in_mm_for_the_check_and_for_training(tmp_path):
    micrometres(tmp_path / "a.nii.gz")
    with open_volume(tmp_path / "a.nii.gz") as volume:
        assert volume.spacing == (0.5, 0.5, 2.0)
    assert np.allclose(LoadImage(image_only=True)(tmp_path / "a.nii.gz").affine, np.diag([0.5, 0.5, 2, 1]))


def test_two_forms_at_two_places_are_said(tmp_path):
    two_forms(tmp_path / "a.nii.gz")
    with open_volume(tmp_path / "a.nii.gz") as volume:
        assert "sform and qform are up to 11.6 mm apart" in volume.notes[0]


def test_an_sform_counts_although_the_voxel_size_differs(tmp_path):
    """MONAI would take the qform then, and nobody would know."""
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    image.set_qform(np.diag([2.0, 2, 2, 1]), 1)
    image.set_sform(np.diag([1.0, 1, 3, 1]), 1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with open_volume(tmp_path / "a.nii.gz") as volume:
        assert np.allclose(volume.affine, LoadImage(image_only=True)(tmp_path / "a.nii.gz").affine)
        assert volume.spacing == (1, 1, 3)


@pytest.mark.parametrize("name", ["be.nii.gz", "pair.img", "two.nii", "a.mgz"])
def test_byte_order_pairs_version_2_and_mgh(tmp_path, name):
    affine = np.diag([1.0, 1, 2, 1])
    if name == "a.mgz":
        image = nibabel.MGHImage(VOXELS.astype(np.float32), affine)
    elif name == "pair.img":
        image = nibabel.Nifti1Pair(VOXELS, affine)
    elif name == "two.nii":
        image = nibabel.Nifti2Image(VOXELS, affine)
    else:
        image = nibabel.Nifti1Image(VOXELS.astype(">i2"), affine, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / name)
    (file,) = convert_scans(tmp_path / name, tmp_path / "out", progress=False)
    found = nibabel.load(file)
    assert (np.asarray(found.dataobj) == VOXELS).all() and np.allclose(found.affine, affine)
    assert found.header.endianness == "<"


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_scale_that_is_none_leaves_the_values(tmp_path, slope):
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    content = bytearray(image.to_bytes())
    content[112:116] = np.float32(slope).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    assert (LoadImage(image_only=True)(tmp_path / "a.nii").numpy() == VOXELS).all()


def test_own_results_are_known(tmp_path):
    save_nifti(VOXELS, np.eye(4), tmp_path / "a.nii.gz", description=b"dualseg segmentation")
    save_nifti(VOXELS, np.eye(4), tmp_path / "b.nii.gz")
    assert is_own_result(tmp_path / "a.nii.gz") and not is_own_result(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("spacing", [1e-6, 5000.0])
def test_absurd_voxel_sizes_are_refused(tmp_path, spacing):
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.diag([1, 1, spacing, 1])), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="Correct the voxel size"), open_volume(tmp_path / "a.nii.gz"):
        pass
