# SPDX-License-Identifier: Apache-2.0
"""Which command of MONAI each command stands for, and what it says when it cannot."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.bundle_files import BUNDLE, CONFIGS
from scripts.cli import COMMANDS, main
from scripts.cli.training import bundle_command, evaluate, find_model, folds, predict, train
from scripts.errors import DataError
from scripts.reports.case_metrics import COLUMNS
from scripts.runs import Run


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.fixture
def called(monkeypatch):
    """What would be run: (names of the configs below configs/, options, run id), and nothing is."""
    calls = []

    def note(configs, options, run_id="run", go_on="", show=True):
        names = [str(path.relative_to(CONFIGS)) if CONFIGS in path.parents else path.name for path in configs]
        calls.append((names, {key: value for key, value in options.items() if value is not None}, run_id))
        return 0

    for module in (train, predict, evaluate):
        monkeypatch.setattr(module, "run_bundle", note)
    return calls


@pytest.fixture
def scans(tmp_path):
    """Six scans, four with a label."""
    folder = tmp_path / "scans"
    for role in ("images", "labels"):
        (folder / role).mkdir(parents=True)
    for number in range(6):
        voxels = np.random.default_rng(number).random((8, 8, 8), dtype=np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / "images" / f"s{number}.nii.gz")
        if number < 4:
            label = nibabel.Nifti1Image((voxels > 0.5).astype(np.uint8), np.eye(4))
            nibabel.save(label, folder / "labels" / f"s{number}.nii.gz")
    return folder


def make_run(folder, **inference):
    run = Run(folder)
    folder.mkdir(parents=True)
    run.config_file.write_text(json.dumps({"seed": 0}))
    run.finish(
        {"finished": "now"}, {"_desc_": "its model", "ckpt_path": str(run.model), "spacing": [1, 1, 1], **inference}
    )
    run.model.write_bytes(b"weights")
    return run


def test_training_splits_once_and_layers_the_configs(scans, tmp_path, called):
    words = ("train", scans, "--labeled", 2, "--test=1", "--method", "supervised", "--recipe=cpu", "--runs", tmp_path)
    words += ("--set", "max_epochs=7", "--set=train#trainer#amp=False", "--seed=3")
    assert command(*words) == 0
    datalist = json.loads((scans / "datalist.json").read_text())
    assert [len(datalist[section]) for section in ("training", "unlabeled", "validation", "test")] == [2, 3, 0, 1]
    names, options, run_id = called[0]
    assert names == ["train.json", "datasets/folder.json", "recipes/cpu.json", "methods/supervised.json"]
    assert run_id == "training"
    assert options == {
        "runs_dir": tmp_path,
        "seed": 3,
        "dataset_dir": scans,
        "datalist_name": "datalist.json",
        "max_epochs": "7",
        "train#trainer#amp": "False",
    }
    before = (scans / "datalist.json").read_text()
    assert command(*words) == 0  # the same command goes on with the same datalist
    assert called[1] == called[0] and (scans / "datalist.json").read_text() == before


@pytest.mark.parametrize(("option", "said"), [("--labeled=4", True), ("--test=1", False)])
def test_a_training_that_nothing_will_score_says_so(scans, tmp_path, called, capsys, option, said):
    assert command("train", scans, option, "--runs", tmp_path) == 0
    assert ("No test scans, so nothing will be scored. For scores: --folds 4" in capsys.readouterr().err) is said


def finish_fold(options, run_id):
    """What a training leaves behind."""
    if "run_name" in options:
        run = make_run(Path(options["runs_dir"]) / options["run_name"])
        run.config_file.write_text(json.dumps({"max_epochs": 7}))
        columns = {"network": "ensemble", "class": 1, "name": "heart", "image": f"/{run.folder.name}.nii.gz"}
        columns |= dict.fromkeys(("dice", "jaccard", "hd95_mm", "asd_mm"), 0.5)
        values = {name: columns.get(name, 0) for name in COLUMNS}
        run.scores_file.write_text(",".join(values) + "\n" + ",".join(map(str, values.values())) + "\n")
    else:
        Run(Path(re.search(r"'(.+)'", options["training"][-1])[1]).parent).grid_file.write_text("{}")


def test_folds_are_trained_one_after_the_other_and_finished_ones_kept(scans, tmp_path, monkeypatch, capsys):
    calls, failing = [], ["fold2"]

    def note(configs, options, run_id="run", go_on="", show=True):
        calls.append((configs[-1].name, options))
        if options.get("run_name") in failing:
            return 130
        finish_fold(options, run_id)
        return 0

    monkeypatch.setattr(folds, "run_bundle", note)
    monkeypatch.setattr(train, "_epochs_within", lambda seconds, time, configs, options: int(seconds))
    words = ("train", scans, "--runs", tmp_path, "--folds=2", "--recipe=cpu", "--time=20s", "--set", "dropout=0.2")
    assert command(*words) == 130
    failing.clear()
    assert command(*words) == 0
    whole = tmp_path / "scans_mean_teacher_copy_paste_seed0_2folds"
    assert [(name, options.get("run_name")) for name, options in calls] == [
        ("cpu.json", None),
        ("grid.json", "fold1"),
        ("grid.json", "fold2"),
        ("grid.json", "fold2"),
    ]
    last = calls[-1][1]
    assert last["datalist_name"] == "datalist_fold2.json" and last["dataset_dir"] == whole == last["runs_dir"]
    assert last["dataset_name"] == "scans" and last["dropout"] == "0.2" and last["max_epochs"] == 7
    assert calls[1][1]["max_epochs"] == 10  # half of the time for each of two folds
    assert "Scores of 2 cases" in capsys.readouterr().out
    _, weights = find_model.prediction_configs([str(whole)])
    assert weights == [whole / "fold1" / "model.pt", whole / "fold2" / "model.pt"]
    assert command("evaluate", whole) == 1 and "holds 2 runs, one a fold" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["1", "9", "two"])
def test_folds_that_cannot_be_are_named(scans, tmp_path, called, capsys, count):
    assert command("train", scans, "--runs", tmp_path / "runs", f"--folds={count}") == 1
    assert f"--folds {count}: must be a whole number from 2" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_a_folder_the_phantom_is_trained_on(called, tmp_path):
    assert command("train", "--runs", tmp_path) == 0
    assert called == [(["train.json"], {"runs_dir": tmp_path, "seed": 0}, "training")]


def test_a_datalist_of_another_size_is_not_used_silently(scans, called, capsys):
    command("train", scans, "--labeled=2")
    assert command("train", scans, "--labeled=3") == 1
    assert "lists 2 training cases, not 3" in capsys.readouterr().err
    assert command("train", scans, "--labeled=3", "--datalist=three.json") == 0
    assert len(json.loads((scans / "three.json").read_text())["training"]) == 3


def test_training_on_values_of_ones_own(scans, called, capsys):
    words = ("train", scans, "--values=0,1", "--group=(.*)")
    assert command(*words) == 0 and command(*words) == 0
    assert json.loads((scans / "datalist.json").read_text())["values"] == [0, 1]
    assert command("train", scans, "--values=0,255") == 1
    assert "its values are [0, 1]. Leave out --values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--names=background,heart"], "its classes are background, class 1. Leave out --names"),
        (["--ignore=255"], "its ignored label value is None, not 255. Leave out --ignore"),
        (["--channels=T1,FLAIR"], "its cases have 1 files each. Leave out --channels"),
        (["--unlabeled=others"], "lists no unlabelled scan of others. Leave out --unlabeled"),
        (["--segments=heart"], "its classes are background, class 1. Leave out --segments"),
        (["--group=^(.)"], "has patient s in test and in training and in unlabeled. Leave out --group"),
    ],
)
def test_an_option_that_a_datalist_contradicts_is_not_dropped_silently(scans, called, capsys, words, message):
    assert command("train", scans, "--labeled=2", "--test=1") == 0
    called.clear()
    assert command("train", scans, *words) == 1
    assert message in capsys.readouterr().err and not called


def test_the_same_command_again_is_taken(scans, tmp_path, called):
    others = tmp_path / "others"
    others.mkdir()
    shutil.move(scans / "images" / "s5.nii.gz", others)
    words = ["--names=background,heart,ignore", f"--unlabeled={others}", "--group=(.*)", "--labeled=1", "--test=1"]
    assert command("train", scans, *words) == 0 and command("train", scans, *words) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method=supervized"], "--method supervized: must be one of ad_mt, as_released, bcp"),
        (["--recipe=none.json"], "none.json: no such file. Correct --recipe"),
        (["--set", "max_epochs"], "--set max_epochs: must be KEY=VALUE"),
        (["--time=3"], "--time 3: must be a number with s, m, h or d"),
        (["--labeled=0.5"], "--labeled 0.5: must be a whole number"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(scans, called, capsys, words, message):
    assert command("train", scans, *words) == 1
    assert message in capsys.readouterr().err
    assert not called and not (scans / "datalist.json").exists()


def test_a_missing_folder_is_named(tmp_path, capsys):
    assert command("train", tmp_path / "none") == 1
    assert f"{tmp_path / 'none'}: no such folder" in capsys.readouterr().err


def test_a_mistyped_option_runs_nothing(scans, called):
    assert command("train", scans, "--labelled=2") == 2
    assert not called and not (scans / "datalist.json").exists()


def test_time_becomes_epochs_by_measured_steps_and_a_resumed_run_keeps_them(scans, tmp_path, monkeypatch, capsys):
    calls = []

    def measure(configs, options, run_id="run", go_on="", show=True):
        calls.append(dict(options))
        if options["runs_dir"] != tmp_path:  # the trial
            Run(options["runs_dir"] + "/trial").log.append({"epoch": 2, "step_seconds": 0.5})
        return 0

    monkeypatch.setattr(train, "run_bundle", measure)
    words = ("train", scans, "--runs", tmp_path, "--time=1h", "--recipe=cpu")
    assert command(*words) == 0
    trial, training = calls
    assert trial["max_epochs"] == 2 and trial["run_name"] == "trial"
    # 50 steps of 0.5 s an epoch: 144 epochs an hour, a tenth of it is kept for scoring
    assert training["max_epochs"] in (128, 129) and training["_time_"] == "1h"
    run = Run(tmp_path / "scans_mean_teacher_copy_paste_seed0")
    run.folder.mkdir()
    kept = {**training, "max_epochs": 100, "runs_dir": str(tmp_path), "dataset_dir": str(scans)}
    run.config_file.write_text(json.dumps(kept))
    calls.clear()
    assert command(*words) == 0
    assert [call["max_epochs"] for call in calls] == [100]


def test_prediction_takes_the_newest_run_a_file_or_a_shipped_model(scans, tmp_path, called):
    old, new = (make_run(tmp_path / "runs" / name) for name in ("old", "new"))
    os.utime(old.record_file, (1, 1))
    out = tmp_path / "out"
    assert command("predict", scans / "images", out, "--runs", tmp_path / "runs", "--flips=0,2", "--largest=1") == 0
    assert command("predict", scans / "images", out, "--model", old.model, "--uncertainty") == 0
    assert command("predict", scans / "images", out, "--model=hippocampus") == 0
    (first, options, _), (_, from_file, _), (shipped, of_shipped, _) = called
    assert first == ["inference.json", "inference.json"] and options["ckpt_path"] == new.model
    assert options["skip_unusable"] is True and options["dataset_dir"] == scans / "images"
    assert options["mirrored_axes"] == [0, 2] and options["largest_component"] == [1]
    assert from_file["ckpt_path"] == old.model and from_file["uncertainty"] is True and "mirrored_axes" not in from_file
    assert shipped == ["inference.json", "datasets/hippocampus.json"]
    assert of_shipped["ckpt_path"] == BUNDLE / "models" / "model_hippocampus.pt"


def test_runs_are_averaged_only_if_they_fit(scans, tmp_path, called, capsys):
    runs = [make_run(tmp_path / name) for name in ("a", "b")] + [make_run(tmp_path / "c", spacing=[2, 2, 2])]
    assert command("predict", scans, tmp_path / "out", "--model", f"{runs[0].folder},{runs[1].folder}") == 0
    assert called[0][1]["ckpt_path"] == runs[0].model and called[0][1]["further_weights"] == [str(runs[1].model)]
    assert command("predict", scans, tmp_path / "out", "--model", f"{runs[0].folder},{runs[2].folder}") == 1
    assert f"{runs[2].folder}: its spacing is not that of" in capsys.readouterr().err


def test_the_largest_part_is_kept_of_what_was_asked_for_or_learnt(scans, tmp_path, called):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    for run, classes in zip(runs, ([1, 2], [2]), strict=True):
        run.note_largest_parts(classes)
    both = f"{runs[0].folder},{runs[1].folder}"
    for words in (("--model", both), ("--model", both, "--largest=none"), ("--model", both, "--largest=1,2")):
        assert command("predict", scans, tmp_path / "out", *words) == 0
    assert command("predict", scans, tmp_path / "out", "--model", runs[0].folder) == 0
    *several, alone = (options for _, options, _ in called)
    assert [options["largest_component"] for options in several] == [[2], [], [1, 2]]
    assert "largest_component" not in alone  # its inference.json says it


def test_models_that_are_none_are_named(scans, tmp_path, called, capsys):
    (tmp_path / "lone.pt").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    unfinished = Run(tmp_path / "unfinished")
    unfinished.folder.mkdir()
    unfinished.config_file.write_text("{}")
    for model, message in {
        "none": "none: no such folder",
        "lone.pt": "no inference.json beside it",
        "empty": "not a run, it has no config.json",
        "unfinished": "has not come to its end",
    }.items():
        assert command("predict", scans, tmp_path / "out", "--model", tmp_path / model) == 1
        assert message in capsys.readouterr().err
    assert command("predict", scans, tmp_path / "out", "--runs", tmp_path / "empty") == 1
    assert "no finished run in it. Train one, or name a model" in capsys.readouterr().err
    assert command("predict", scans, scans, "--model=hippocampus") == 1
    assert "is the folder of the scans" in capsys.readouterr().err
    assert not called


def test_evaluation_is_the_runs_own_config_with_the_scoring_over_it(tmp_path, called):
    run = make_run(tmp_path / "runs" / "one")
    assert command("evaluate", run.folder, "--datalist=other.json") == 0
    names, options, run_id = called[0]
    assert names == ["train.json", "config.json", "evaluate.json"] and run_id == "run"
    assert options == {"ckpt_path": run.model, "output_dir": run.evaluation, "datalist_name": "other.json"}


def test_the_command_is_shown_as_a_shell_takes_it(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    assert bundle_command.run_bundle([tmp_path / "a b.json"], {"x": "1 2", "left_out": None}) == 0
    shown = capfd.readouterr().err.strip()
    assert shown == f"""python -m monai.bundle run run --config_file "['{tmp_path}/a b.json']" '--x=1 2'"""
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {shown}"], capture_output=True, text=True
    ).stdout.splitlines()
    assert words[-2:] == [f"['{tmp_path}/a b.json']", "--x=1 2"]


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_exit_codes_come_through(tmp_path, monkeypatch, script, code):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert bundle_command.run_bundle([tmp_path / "a.json"], {}) == code


def test_after_ctrl_c_it_says_how_to_go_on(tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\ntouch started\nexec sleep 60\n")
    program.chmod(0o755)
    code = (
        f"import sys; sys.path.insert(0, {str(BUNDLE)!r}); sys.executable = {str(program)!r}\n"
        "from scripts.cli.training.bundle_command import run_bundle\n"
        "sys.exit(run_bundle([], {}, go_on='Give the same command again.'))\n"
    )
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell starts what is to run in its background deaf to Ctrl-C, and these tests may run there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "started").exists() and time.monotonic() - started < 100:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Interrupted. Give the same command again." in errors
    assert "Traceback" not in errors


def test_methods_lists_every_config(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert command("methods") == 0
    shown = capsys.readouterr().out
    assert "mean_teacher_copy_paste (default)" in shown
    assert all(path.stem in shown for path in (CONFIGS / "methods").glob("*.json"))


def test_a_copy_of_the_bundle_is_whole_and_replaces_nothing(tmp_path, capsys):
    assert command("bundle", tmp_path / "copy") == 0
    for path in (
        "configs/train.json",
        "models/model.pt",
        "scripts/runs/run.py",
        "metadata.json",
        "LICENSE",
        "docs/README.md",
    ):
        assert (tmp_path / "copy" / path).is_file(), path
    assert not (tmp_path / "copy" / "scripts" / "bundle").exists()
    assert command("bundle", tmp_path / "copy") == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("words", [(), ("--help",), ("--version",), ("methods",), ("trian", "scans")])
def test_what_needs_no_torch_does_not_wait_for_it(words):
    """Torch and MONAI take seconds to import."""
    code = f"import sys; sys.argv[1:] = {list(words)}\nfrom scripts.__main__ import main\n"
    code += "try: main()\nexcept SystemExit as end: print(end.code, sorted({'torch', 'monai'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == ("2 []" if words[:1] == ("trian",) else "0 []")


def test_the_help_names_every_command_with_what_it_says_of_itself(capsys):
    assert command("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, function in COMMANDS.items():
        assert any(line.split() == [name, *inspect.getdoc(function).splitlines()[0].split()] for line in lines)


def test_a_command_that_does_not_exist_is_refused_with_those_that_do(capsys):
    assert command("trian", "scans") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Error: trian: no such command. Did you mean train? There are train, predict,")


def test_a_commands_help_has_its_own_options_alone(capsys):
    assert command("accept", "--help") == 0
    shown = capsys.readouterr()
    assert "dualseg accept REVIEWED DATALIST <flags>" in shown.out + shown.err


def test_the_version_is_that_of_the_bundle(capsys):
    assert command("--version") == 0
    assert capsys.readouterr().out.strip() == json.loads((BUNDLE / "metadata.json").read_text())["version"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_or_explains_itself(name):
    text = COMMANDS[name].__doc__
    assert f"dualseg {name}" in text or name in ("split", "check", "convert", "prepare")


def test_settings_are_pairs():
    assert bundle_command.parse_settings(["a=1", "b#c=x=y"]) == {"a": "1", "b#c": "x=y"}
    for wrong in ("a", "=1", "a="):
        with pytest.raises(DataError, match="must be KEY=VALUE"):
            bundle_command.parse_settings([wrong])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_to_the_command_reaches_the_training(tmp_path, number, code):
    """A cluster knows the command alone, or sends the signal to both."""
    training = (
        "import pathlib, signal, sys, time\n"
        "got = []\n"
        f"signal.signal(signal.{number.name}, lambda *_: got.append(1))\n"
        "pathlib.Path('ready').touch()\n"
        "while not got: time.sleep(0.01)\n"
        f"sys.exit({code})\n"
    )
    (tmp_path / "training.py").write_text(training)
    command = (
        "import subprocess, sys\n"
        "from scripts.cli.training import bundle_command\n"
        "start = subprocess.Popen\n"
        "subprocess.Popen = lambda command, **options: start([sys.executable, 'training.py'], cwd=sys.argv[1])\n"
        "sys.exit(bundle_command.run_bundle([], {}, show=False))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], cwd=BUNDLE)
    for _ in range(6000):
        if (tmp_path / "ready").exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
