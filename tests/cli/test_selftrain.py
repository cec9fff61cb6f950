# SPDX-License-Identifier: Apache-2.0
"""Rounds of self-training: label, train from the weights before, keep what is finished."""

import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch

from scripts.cli import main
from scripts.cli.training import selftrain as module
from scripts.data import phantom_dataset
from scripts.runs import Run


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main(["selftrain", *map(str, words)])
    return ended.value.code


def finish(run, **config):
    run.folder.mkdir(parents=True, exist_ok=True)
    run.config_file.write_text(json.dumps(config))
    run.finish({"finished": "now"}, {})
    run.model.write_bytes(b"weights")
    return run


@pytest.fixture
def first(tmp_path):
    config = {"dataset_name": "$os.path.basename(@dataset_dir)", "dataset_dir": "/data/mine"}
    return finish(Run(tmp_path / "mine"), datalist_name="list.json", **config)


@pytest.fixture
def calls(monkeypatch):
    """Notes what would be run, and leaves what it would leave."""
    found = []

    def note(configs, options, run_id="run", go_on="", show=True):
        found.append(([path.name for path in configs], options, run_id))
        if run_id == "training":
            finish(Run(options["runs_dir"] / options["run_name"]))
        else:
            settings = {key: options[f"pseudo_labels#{key}"] for key in ("keep", "max_entropy")}
            options["output_dir"].mkdir()
            (options["output_dir"] / "list.json").write_text(json.dumps({"self_training": settings}))
        return 0

    monkeypatch.setattr(module, "run_bundle", note)
    return found


def test_each_round_labels_by_the_weights_before_and_starts_from_them(first, calls, tmp_path):
    assert command(first.folder, "--rounds=2", "--keep=0.5", "--set", "max_epochs=3") == 0
    second = Run(tmp_path / "mine_selftrain1")
    for teacher, (label, train), name in (
        (first, calls[:2], "mine_selftrain1"),
        (second, calls[2:], "mine_selftrain2"),
    ):
        configs, options, _ = label
        assert configs == ["train.json", "config.json", "review.json", "pseudo_labels.json"]
        assert options["ckpt_path"] == teacher.model and options["output_dir"] == teacher.pseudo_labels
        configs, options, _ = train
        assert configs == ["train.json", "config.json", "control.json", "self_training.json", "grid.json"]
        assert options == {
            "dataset_dir": teacher.pseudo_labels,
            "dataset_name": "mine",
            "initial_weights": teacher.model,
            "runs_dir": tmp_path,
            "run_name": name,
            "max_epochs": "3",
        }
    before = len(calls)
    assert command(first.folder, "--rounds=2", "--keep=0.5") == 0 and len(calls) == before
    assert command(first.folder, "--rounds=3", "--keep=0.5") == 0 and len(calls) == before + 2


def test_pseudo_labels_of_other_settings_are_not_taken(first, calls, capsys):
    assert command(first.folder) == 0
    assert command(first.folder, "--entropy=0.2") == 1
    assert "is of other --keep or --entropy" in capsys.readouterr().err and len(calls) == 2


@pytest.mark.parametrize("rounds", ["0", "two", "1.5"])
def test_rounds_are_a_whole_number(first, calls, rounds, capsys):
    assert command(first.folder, "--rounds", rounds) == 1
    assert "--rounds" in capsys.readouterr().err and not calls


@pytest.mark.slow
def test_the_phantom_is_labelled_and_learnt(tmp_path, bundle_root, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = phantom_dataset(
        tmp_path / "data", size=(32, 32, 32), labeled=2, unlabeled=2, validation=0, test=1, progress=False
    )
    small = {"base_channels": 4, "max_epochs": 1, "epoch_length": 2, "batch_size": 2, "unlabeled_batch_size": 2}
    options = {"dataset_dir": data, "runs_dir": tmp_path / "runs", "bundle_root": bundle_root, **small}
    words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    train = ["run", "training", "--config_file", str(bundle_root / "configs" / "train.json"), *words]
    subprocess.run([sys.executable, "-m", "monai.bundle", *train], check=True, capture_output=True)
    first = tmp_path / "runs" / "phantom_mean_teacher_copy_paste_seed0"
    assert command(first, "--keep=1", "--entropy=0.9", "--set", "learning_rate=0") == 0
    student = Run(tmp_path / "runs" / "phantom_mean_teacher_copy_paste_seed0_selftrain1")
    assert student.is_finished and student.initial_weights() == str(first / "model.pt")
    there, here = (torch.load(path, weights_only=True) for path in (first / "model.pt", student.model))
    assert all(torch.equal(here[name], value) for name, value in there.items())
    made = json.loads((first / "pseudo_labels" / "datalist.json").read_text())
    assert [case.get("pseudo", False) for case in made["training"]] == [False, False, True, True]
    values = [
        np.unique(np.asarray(nibabel.load(first / "pseudo_labels" / case["label"]).dataobj))
        for case in made["training"][2:]
    ]
    assert set(np.concatenate(values)) <= {0, 1, 255} and 255 in np.concatenate(values)
