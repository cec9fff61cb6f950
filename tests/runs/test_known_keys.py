# SPDX-License-Identifier: Apache-2.0
"""A mistyped key ends the command with the nearest name, before anything is written."""

import json
import subprocess
import sys

import pytest
from monai.bundle import ConfigParser

from scripts.data import DataError, phantom_dataset


def check(bundle_root, *names, **overrides):
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / f"{name}.json") for name in names])
    parser.read_meta(str(bundle_root / "configs" / "metadata.json"))
    parser.update(overrides)
    parser["_checked"] = "$@scripts.runs.refuse_unknown_keys()"
    parser.get_parsed_content("_checked")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("max_epoch", "did you mean max_epochs?"), ("datset_dir", "did you mean dataset_dir?"), ("qqqq", "remove it")],
)
def test_a_key_without_a_use_is_refused_with_the_nearest_name(bundle_root, key, nearest):
    with pytest.raises(Exception) as raised:
        check(bundle_root, "train", **{key: 3})
    error = raised.value
    while not isinstance(error, DataError):
        error = error.__cause__
    assert str(error).startswith(f"{key}: the config has no such key, {nearest}")


@pytest.mark.parametrize("names", [["train"], ["train", "evaluate"], ["train", "multi_gpu_train"], ["inference"]])
def test_the_configs_themselves_pass(bundle_root, names):
    check(bundle_root, *names)


def test_the_overrides_pass(bundle_root):
    configs = bundle_root / "configs"
    for path in sorted(configs.glob("*/*.json")):
        check(bundle_root, "train", path.relative_to(configs).with_suffix("").as_posix())


def test_keys_that_something_refers_to_and_comments_pass(bundle_root):
    overrides = {"width": 4, "base_channels": "@width", "_why_": "narrow", "train#trainer#max_epochs": 3}
    check(bundle_root, "train", **overrides)
    check(bundle_root, "train", _mine={"a": 1}, spacing="%_mine#a")


def test_the_commands_end_with_an_error_before_anything_is_written(bundle_root, tmp_path):
    data, runs = tmp_path / "data", tmp_path / "runs"
    phantom_dataset(data, labeled=1, unlabeled=0, validation=0, test=1, size=(16, 16, 16), progress=False)
    evaluate = "['configs/train.json','configs/evaluate.json']"
    rest = [f"--dataset_dir={data}", "--max_epoch=3"]
    commands = [
        ["run", "training", "--config_file=configs/train.json", f"--runs_dir={runs}", *rest],
        ["run", "evaluating", f"--config_file={evaluate}", f"--runs_dir={runs}", f"--output_dir={tmp_path}/out", *rest],
        ["run", "--config_file=configs/inference.json", f"--output_dir={tmp_path}/out", *rest],
    ]
    logs = [tmp_path / f"{number}.log" for number in range(len(commands))]
    fork = [sys.executable, str(bundle_root / "tests" / "fork_bundle.py")]
    jobs = json.dumps([(arguments, str(log)) for arguments, log in zip(commands, logs, strict=True)])
    done = subprocess.run(fork, cwd=bundle_root, input=jobs, capture_output=True, text=True, timeout=600)
    assert json.loads(done.stdout) == [1, 1, 1], done.stderr
    for log in logs:
        assert "Error: max_epoch: the config has no such key, did you mean max_epochs?" in log.read_text()
        assert "Traceback" not in log.read_text()
    assert not runs.exists() and not (tmp_path / "out").exists()
