# SPDX-License-Identifier: Apache-2.0
"""Which folder a run gets: its own again while unfinished, a new one otherwise."""

import json
import os
import platform
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from scripts.data import DataError
from scripts.runs import Run, finish_run, latest_run, run_folder
from scripts.runs import start as start_module
from scripts.runs.lock import lock_folder, unlock_folder


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
            "resume": "auto",
            "output_dir": f"$scripts.runs.run_folder({str(runs)!r}, 'demo', @resume)",
            "finish": "$scripts.runs.finish_run(@output_dir)",
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


def test_a_run_goes_on_with_its_scans_kept_elsewhere(tmp_path):
    _, first = start(tmp_path, cache="memory", cache_dir="here")
    assert start(tmp_path, cache="disk", cache_dir="there")[1] == first


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


def test_evaluation_never_scores_a_newer_run_of_another_datalist(bundle_root, tmp_path):
    for time, labels in ((1, 8), (2, 64)):
        parser, folder = start(tmp_path, datalist_name=f"datalist_{labels}.json")
        parser.get_parsed_content("finish")
        os.utime(folder / "run.json", (time, time))
    evaluate = ConfigParser()
    evaluate.read_config([str(bundle_root / "configs" / f"{name}.json") for name in ("train", "evaluate")])
    evaluate.update({"runs_dir": str(tmp_path), "run_name": "demo", "datalist_name": "datalist_8.json"})
    assert evaluate.get_parsed_content("ckpt_path") == str(tmp_path / "demo" / "model.pt")


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


@pytest.mark.parametrize("values", [[0, 255], None])
def test_predictions_of_a_run_will_hold_the_values_of_its_label_files(tmp_path, values):
    parser, folder = start(tmp_path, label_values=values)
    parser.get_parsed_content("finish")
    assert json.loads((folder / "inference.json").read_text()).get("label_values") == values


@pytest.mark.parametrize("length", [384.0, 0, None])
def test_predictions_of_a_run_will_see_slices_as_large_as_it_did(tmp_path, length):
    parser, folder = start(tmp_path, field_of_view=length)
    parser.get_parsed_content("finish")
    assert json.loads((folder / "inference.json").read_text()).get("field_of_view") == (length or None)


@pytest.mark.parametrize("middle", [[256.0, 256.0, 0], 0, None])
def test_predictions_of_a_run_will_look_where_it_did(tmp_path, middle):
    parser, folder = start(tmp_path, center_crop=middle)
    parser.get_parsed_content("finish")
    assert json.loads((folder / "inference.json").read_text()).get("center_crop") == (middle or None)


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


def error_of(runs, **changes):
    """What a start is refused with."""
    with pytest.raises(Exception) as caught:
        start(runs, **changes)
    error = caught.value
    while not isinstance(error, DataError):
        error = error.__cause__
    return str(error)


def test_a_new_run_says_which_ones_it_passed_over_and_how_to_go_on_with_them(tmp_path, caplog):
    parser, first = start(tmp_path)
    parser.get_parsed_content("finish")
    assert "new run" not in caplog.text
    _, second = start(tmp_path, epochs=4)
    assert f"{first} is finished" in caplog.text
    caplog.clear()
    _, third = start(tmp_path, epochs=5, width=8)
    assert f"This is a new run, {third}." in caplog.text and f"{first} is finished" in caplog.text
    assert f"{second} is not finished, but has another config (epochs is 4 there and 5 here; width is 4" in caplog.text
    assert f"--config_file {second / 'config.json'}" in caplog.text


def test_two_spellings_of_a_path_are_the_same_run(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    spellings = (str(tmp_path / "data"), f"{tmp_path}/data/", "data", "./data", str(tmp_path / "link"))
    folders = {start(tmp_path / "runs", dataset_dir=spelling)[1] for spelling in spellings}
    assert folders == {tmp_path / "runs" / "demo"}
    assert start(tmp_path / "runs", dataset_dir="other")[1].name == "demo_2"
    assert start(tmp_path / "runs", dataset_dir="other/")[1].name == "demo_2"


def test_resume_must_goes_on_or_says_why_not(tmp_path):
    assert error_of(tmp_path, resume="must").startswith("No unfinished run of this config to go on with.")
    parser, first = start(tmp_path)
    assert start(tmp_path, resume="must")[1] == first
    assert "demo is not finished, but has another config (epochs is 3" in error_of(tmp_path, resume="must", epochs=4)
    parser.get_parsed_content("finish")
    assert f"{first} is finished" in error_of(tmp_path, resume="must")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_resume_off_always_begins_anew(tmp_path):
    start(tmp_path)
    assert start(tmp_path, resume="off")[1].name == "demo_2"
    assert start(tmp_path)[1].name == "demo"


def test_resume_has_three_values(tmp_path):
    assert error_of(tmp_path, resume="yes") == "resume is 'yes': it must be one of auto, must, off."


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text(""), lambda path: path.write_text("[")])
def test_a_damaged_config_never_begins_a_second_run_without_a_word(tmp_path, damage):
    _, first = start(tmp_path)
    (first / "last.pt").touch()
    damage(first / "config.json")
    message = error_of(tmp_path)
    assert str(first / "config.json") in message and "or give --resume off" in message
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert start(tmp_path, resume="off")[1].name == "demo_2"


def test_a_run_whose_record_is_damaged_goes_on_from_its_checkpoint(tmp_path, caplog):
    parser, first = start(tmp_path)
    parser.get_parsed_content("finish")
    (first / "run.json").write_text("")
    assert "run.json: damaged" in error_of(tmp_path)
    (first / "last.pt").touch()
    assert start(tmp_path)[1] == first
    assert "run.json is damaged: the run goes on" in caplog.text


@pytest.mark.parametrize("left", [(), (".0123abcd.part-config.json",)])
def test_a_folder_in_which_a_killed_start_left_nothing_whole_is_used(tmp_path, left):
    (tmp_path / "demo").mkdir()
    for name in left:
        (tmp_path / "demo" / name).touch()
    _, folder = start(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", ".owner", "config.json"]
    assert folder.name == "demo"


def test_files_of_a_killed_write_are_removed_when_the_run_goes_on(tmp_path):
    _, folder = start(tmp_path)
    (folder / "pictures").mkdir()
    for name in (".0123abcd.part-last.pt", "pictures/.0123abcd.part-worst.png"):
        (folder / name).touch()
    (folder / "mine.part-1").touch()
    start(tmp_path)
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {"config.json", "mine.part-1", ".lock", ".owner"}


def test_the_folder_has_the_rights_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        _, folder = start(tmp_path)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750


def other_process(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


HOLD = """
import sys, time
from pathlib import Path
from scripts.runs.lock import lock_folder
lock_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_the_same_command_twice_at_once_is_refused_and_a_dead_process_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(start_module, "lock_folder", partial(lock_folder, wait=0.1))
    _, folder = start(tmp_path)
    unlock_folder(folder)
    holder = other_process(HOLD, folder)
    assert holder.stdout.readline() == "held\n"
    message = error_of(tmp_path)
    assert f"{folder}: in use by process {holder.pid} on {platform.node()}. " in message and "--resume off" in message
    assert start(tmp_path, resume="off")[1].name == "demo_2"
    holder.kill()
    holder.wait()
    assert start(tmp_path)[1] == folder


def test_a_finished_run_has_no_trace_of_the_lock(tmp_path):
    parser, folder = start(tmp_path)
    assert (folder / ".lock").exists()
    parser.get_parsed_content("finish")
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_what_a_process_left_that_was_killed_after_the_end_of_its_run_goes_at_the_next_start(tmp_path):
    _, folder = start(tmp_path)
    Run(folder).finish({}, {})
    for name in (".lock", ".owner", ".0123abcd.part-report.html", ".4567abcd.part-report.html"):
        (folder / name).touch()
    os.utime(folder / ".0123abcd.part-report.html", (0, 0))
    assert start(tmp_path)[1].name == "demo_2"
    hidden = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    assert hidden == {".4567abcd.part-report.html"}  # which somebody may just be writing
