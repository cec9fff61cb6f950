# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/tutorial.md, one after the other, as they stand there but with less training."""

import re
import shlex
import shutil

import nibabel
import pytest

from scripts.cli import main
from scripts.data import load_datalist, phantom_dataset
from scripts.runs import Run

SHORT = ["max_epochs=2", "epoch_length=1", "base_channels=2", "patch_size=[32,32,32]", "tensorboard=False"]


def commands(page):
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("&& ", "\n").splitlines() if line.strip()]


def test_every_command_is_known(bundle_root):
    words = [shlex.split(line) for line in commands(bundle_root / "docs" / "tutorial.md")]
    used = [line[1] for line in words if line[0] == "dualseg"]
    assert used == ["train", "predict", "next", "accept", "export"]
    assert {line[0] for line in words} == {"dualseg", "python", "mkdir", "cp"}


@pytest.mark.slow
def test_from_scans_to_a_model_for_others(bundle_root, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for line in commands(bundle_root / "docs" / "tutorial.md"):
        program, *words = shlex.split(line)
        if program == "python":
            exec(
                words[1].replace("from dualseg.data import phantom_dataset; ", ""), {"phantom_dataset": phantom_dataset}
            )
        elif program == "mkdir":
            (tmp_path / words[1]).mkdir()
        elif program == "cp":
            for file in words[:-1]:
                shutil.copy(file, words[-1])
        else:
            more = [word for setting in SHORT for word in ("--set", setting)] if words[0] == "train" else []
            with pytest.raises(SystemExit) as ended:
                main([*words, *more])
            assert ended.value.code == 0, capfd.readouterr().err
    first = tmp_path / "first"
    run = Run(first / "runs" / "scans_mean_teacher_copy_paste_seed0")
    assert run.is_finished and run.report.is_file() and (run.export_folder / "model.ts").is_file()
    assert run.certainty_file.is_file()
    assert nibabel.load(first / "results" / "phantom_004_seg.nii.gz").shape == (32, 32, 32)
    assert (first / "results" / "review.csv").read_text().startswith("scan,predicted_dice,agreement,entropy")
    assert [len(load_datalist(first / "scans" / "datalist_2.json")[s]) for s in ("training", "unlabeled")] == [6, 10]
