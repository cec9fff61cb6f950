# SPDX-License-Identifier: Apache-2.0
"""Which folder a run gets: its own again while unfinished, a new one otherwise."""

import json
import os
import resource
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from scripts.data import DataError
from scripts.handlers import finish_run, latest_run, run_folder


def start(runs, **changes):
    """Evaluate a config as a new process would; gives the parser and the run's folder."""
    parser = ConfigParser(
        {
            "imports": ["$import scripts"],
            "epochs": 3,
            "width": 4,
            "labels": {"0": "background", "1": "organ"},
            "in_channels": 1,
            "spacing": "@grid#spacing",
            "grid": {"spacing": [1.0, 1.0, 2.0]},
            "patch_size": [16, 16, 16],
            "overlap": 0.5,
            "intensity": {"_target_": "NormalizeIntensityd", "keys": "image"},
            "network_def": {"_target_": "scripts.networks.DualNetwork", "a": {"width": "@width"}, "b": {"width": 8}},
            "output_dir": f"$scripts.handlers.run_folder({str(runs)!r}, 'demo')",
            "finish": "$scripts.handlers.finish_run(@output_dir)",
            **changes,
        }
    )
    return parser, Path(parser.get_parsed_content("output_dir"))


def test_an_unfinished_run_of_the_same_config_gets_its_folder_again(tmp_path):
    _, first = start(tmp_path)
    _, second = start(tmp_path)
    assert first == second == tmp_path / "demo"
    assert json.loads((first / "config.json").read_text())["epochs"] == 3


def test_another_config_never_gets_the_folder_of_an_unfinished_run(tmp_path):
    _, first = start(tmp_path)
    _, second = start(tmp_path, epochs=4)
    assert (first.name, second.name) == ("demo", "demo_2")
    assert start(tmp_path)[1] == first
    assert start(tmp_path, epochs=4)[1] == second


def test_a_finished_run_is_kept_and_the_next_gets_a_new_folder(tmp_path):
    parser, first = start(tmp_path)
    (first / "model.pt").write_text("weights")
    parser.get_parsed_content("finish")
    second = start(tmp_path)[1]
    assert second.name == "demo_2"
    assert (first / "model.pt").read_text() == "weights"


def test_latest_run_is_the_newest_finished_one(tmp_path):
    for time in (2, 1):
        parser, folder = start(tmp_path)
        parser.get_parsed_content("finish")
        os.utime(folder / "run.json", (time, time))
    start(tmp_path)
    assert Path(latest_run(str(tmp_path), "demo")).name == "demo"


def test_latest_run_can_be_told_which_settings_it_has(tmp_path):
    for labels in (8, 64):
        parser, _ = start(tmp_path, datalist_name=f"datalist_{labels}.json")
        parser.get_parsed_content("finish")
    found = latest_run(str(tmp_path), "demo", datalist_name="datalist_8.json", epochs=3)
    assert json.loads((Path(found) / "config.json").read_text())["datalist_name"] == "datalist_8.json"
    with pytest.raises(DataError, match="demo with datalist_name datalist_4.json: train it first"):
        latest_run(str(tmp_path), "demo", datalist_name="datalist_4.json")


def test_no_finished_run_is_an_error_that_says_what_to_do(tmp_path):
    start(tmp_path)
    with pytest.raises(DataError, match="No finished run .*demo: train .* or give --ckpt_path"):
        latest_run(str(tmp_path), "demo")
    with pytest.raises(DataError, match="or give --initial_weights"):
        latest_run(str(tmp_path), "demo", "--initial_weights")


def test_a_finished_run_leaves_what_inference_needs(tmp_path):
    parser, folder = start(tmp_path)
    parser.get_parsed_content("finish")
    override = json.loads((folder / "inference.json").read_text())
    assert override["ckpt_path"] == str(folder / "model.pt")
    assert override["spacing"] == [1.0, 1.0, 2.0]  # resolved: what it referred to is not part of inference
    assert override["width"] == 4
    assert override["network_def"]["_target_"] == "scripts.networks.DualEnsemble"
    assert override["network_def"]["b"] == {"width": 8}


def test_a_run_records_versions_and_hardware(tmp_path):
    parser, folder = start(tmp_path)
    parser.get_parsed_content("finish")
    record = json.loads((folder / "run.json").read_text())
    assert {"monai", "torch", "numpy"} <= set(record["versions"])
    assert record["device"] and record["initial_weights"] is None


def test_a_run_records_the_weights_that_it_started_from(tmp_path):
    parser, folder = start(tmp_path, initial_weights="/a newer run/model.pt")
    (folder / "initial_weights.json").write_text('{"path": "/first/model.pt"}')
    parser.get_parsed_content("finish")
    assert json.loads((folder / "run.json").read_text())["initial_weights"] == "/first/model.pt"


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception) as caught:
        start(tmp_path / "file" / "runs")
    error = caught.value.__cause__
    assert isinstance(error, DataError)
    assert str(error) == (
        f"{tmp_path}/file/runs/demo: cannot be written (Not a directory). Make room, or name a folder of yours with "
        "--runs_dir."
    )


def test_a_full_disk_leaves_no_half_run(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # bytes: writing more fails, as on a full disk
    try:
        with pytest.raises(Exception) as caught:
            start(tmp_path / "runs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "demo: cannot be written (File too large)" in str(caught.value.__cause__)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_switch_in_lower_case_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(Exception) as raised:
        start(tmp_path / "runs", mlflow="false")
    error = raised.value
    while not isinstance(error, DataError):
        error = error.__cause__
    assert str(error) == "mlflow is the text 'false', not a switch: write --mlflow False."
    assert not (tmp_path / "runs").exists()


def test_outside_of_a_config_the_functions_say_so(tmp_path):
    with pytest.raises(RuntimeError, match="expressions in a bundle's config"):
        run_folder(str(tmp_path), "demo")
    with pytest.raises(RuntimeError, match="expressions in a bundle's config"):
        finish_run(str(tmp_path))
