# SPDX-License-Identifier: Apache-2.0
"""``pip install`` is enough: the wheel has the configs and the weights, and works from any folder."""

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from installed import install_wheel, run
from raw_scans import write_slice

TINY = ("--set", "max_epochs=1", "--set", "epoch_length=1", "--set", "base_channels=4", "--set", "tensorboard=False")


@pytest.mark.slow
def test_train_and_predict_from_the_wheel(tmp_path, request):
    python = install_wheel(request.config.rootpath, tmp_path)
    # Without pip's scripts in --target: what its entry point calls. A folder of the same name must not be in the way.
    dualseg = (python, "-P", "-c", "from dualseg.__main__ import main; main()")
    work = tmp_path / "work"
    (work / "scripts").mkdir(parents=True)
    (work / "scripts" / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    assert "mean_teacher" in run(*dualseg, "methods", cwd=work)
    shown = run(*dualseg, "train", *TINY, cwd=work)
    assert "To segment scans with this model: dualseg predict IN OUT --model" in shown
    folder = work / "runs" / "phantom_mean_teacher_copy_paste_seed0"
    assert (folder / "report.html").is_file() and (folder / "run.json").is_file()
    image = next((work / "data" / "phantom").rglob("*.nii.gz"))
    (work / "in").mkdir()
    (work / "in" / "scan.nii.gz").write_bytes(image.read_bytes())
    (work / "in" / "bad.nii.gz").write_bytes(b"")
    shown = run(*dualseg, "predict", "in", "out", cwd=work, code=3)
    assert sorted(path.name for path in (work / "out").iterdir()) == ["review.csv", "scan_seg.nii.gz"]
    assert "bad.nii.gz: 0 bytes" in shown and "Traceback" not in shown
    pytest.importorskip("highdicom")
    noise = np.random.default_rng(0).normal(0, 100, (12, 40, 36))
    for number, pixels in enumerate(noise):
        write_slice(work / "dicom" / "head" / f"{number}.dcm", pixels, number, 1.5 * number, frame="1.2.3.5")
    run(*dualseg, "predict", "dicom", "segs", "--format", "dicom", cwd=work)
    segmentation = pydicom.dcmread(work / "segs" / "head_seg.dcm")
    assert segmentation.Modality == "SEG" and (segmentation.Rows, segmentation.Columns) == (40, 36)
    assert "did you mean max_epochs?" in run(*dualseg, "train", "--set", "max_epoch=1", cwd=work, code=1)
    run(*dualseg, "bundle", "copy", cwd=work)
    assert (work / "copy" / "scripts" / "cli" / "main.py").is_file() and (work / "copy" / "LICENSE").is_file()
