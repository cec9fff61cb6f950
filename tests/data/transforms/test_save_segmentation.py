# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage

from scripts.data import DataError, SaveSegmentationd
from scripts.data.io.formats.nifti import is_own_result


def test_the_result_has_both_forms_of_its_scan_and_replaces_nothing(tmp_path):
    moved = np.eye(4)
    moved[:3, 3] = 10, -5, 3
    scan = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    scan.set_sform(np.eye(4), 2)
    scan.set_qform(moved, 1)
    nibabel.save(scan, tmp_path / "a.nii.gz")
    volume = LoadImage(image_only=True, ensure_channel_first=True)(tmp_path / "a.nii.gz")
    save = SaveSegmentationd("pred", str(tmp_path))
    save({"pred": torch.ones_like(volume)})
    result = nibabel.load(tmp_path / "a_seg.nii.gz")
    assert result.get_qform(coded=True)[1] == 1 and np.allclose(result.get_qform(), moved)
    assert result.get_sform(coded=True)[1] == 2 and is_own_result(tmp_path / "a_seg.nii.gz")
    with pytest.raises(DataError, match="a_seg.nii.gz: is there already"):
        save({"pred": torch.zeros_like(volume)})
    assert (np.asarray(nibabel.load(tmp_path / "a_seg.nii.gz").dataobj) == 1).all()
    SaveSegmentationd("pred", str(tmp_path), overwrite=True)({"pred": torch.zeros_like(volume)})
    assert (np.asarray(nibabel.load(tmp_path / "a_seg.nii.gz").dataobj) == 0).all()


def test_predictions_hold_the_values_of_the_users_label_files(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 1), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    volume = LoadImage(image_only=True, ensure_channel_first=True)(tmp_path / "a.nii.gz")
    volume[0, :, :, 0] = torch.tensor([[0, 1], [2, 3]])
    SaveSegmentationd("pred", str(tmp_path / "out"), values=[0, 1, 2, 4])({"pred": volume})
    written = nibabel.load(tmp_path / "out" / "a_seg.nii.gz")
    assert np.asarray(written.dataobj)[..., 0].tolist() == [[0, 1], [2, 4]] and written.get_data_dtype() == np.uint8
