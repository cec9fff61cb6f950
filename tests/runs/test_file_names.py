# SPDX-License-Identifier: Apache-2.0
"""The names of a run's files stand in one place, and a run tells what it holds by them."""

import ast
import json
import os

import pytest

from scripts.runs import Run, start_run

NAMES = {*Run.FILES, "training_curves.png"}
# The bundle's own files of the same names: its config for inference, the weights that it ships, the page of results.
BUNDLE_FOLDERS = ("configs", "models", "docs")


def spelled(tree):
    """(line, text) of the string literals that are, or end in, the name of a file of a run."""
    own = {
        id(node.right)
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.left, ast.BinOp)
        if getattr(node.left.right, "value", None) in BUNDLE_FOLDERS
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in own:
            folder, _, name = node.value.rpartition("/")
            # "evaluation" and the like are also words: as files they have a slash before them, or a folder joined to it
            if (
                folder not in BUNDLE_FOLDERS
                and name in NAMES
                and " " not in node.value
                and ("." in name or "/" in node.value)
            ):
                yield node.lineno, node.value
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            name = getattr(node.right, "value", None)
            if name in NAMES and "." not in name:
                yield node.lineno, name


def test_no_other_file_spells_a_name(bundle_root):
    found = []
    for folder in ("scripts", "monailabel_app", "benchmarks"):
        for path in (bundle_root / folder).rglob("*.py"):
            if path.relative_to(bundle_root).as_posix() != "scripts/runs/run.py":
                found += [f"{path}:{line} {text}" for line, text in spelled(ast.parse(path.read_text()))]
    assert not found


def test_the_search_finds_what_it_looks_for():
    code = 'a = folder / "last.pt"; b = f"{folder}/model.json"; c = folder / "pictures"; d = "pictures"\n'
    code += 'e = root / "models" / "model.pt"; f = root / "runs" / "model.pt"'
    assert sorted(text for _, text in spelled(ast.parse(code))) == ["/model.json", "last.pt", "model.pt", "pictures"]


def test_every_path_of_a_run_is_described(tmp_path):
    run = Run(tmp_path)
    paths = {name: value for name, value in vars(run).items() if name not in ("folder", "log")}
    described = {path.relative_to(tmp_path).parts[0] for path in [*paths.values(), run.log.path]}
    assert described == set(Run.FILES)


def test_a_run_lists_what_it_holds(tmp_path):
    run = Run(tmp_path)
    run.pictures.mkdir()
    for path in (run.model, run.curves, tmp_path / "notes.txt"):
        path.write_text("")
    assert run.listing() == [
        ("model.pt", "weights of both networks, to use"),
        ("notes.txt", ""),
        ("pictures/ (1 file)", "worst, median and best case; training curves"),
    ]


def test_a_run_reads_back_what_it_was_told(tmp_path):
    run = Run(tmp_path / "demo")
    assert run.initial_weights() is None and not run.is_finished and not run.can_resume
    run.note_initial_weights("/other/weights.pt")
    run.note_choice({"epoch": 3})
    for epoch in (1, 2):
        run.log.append({"epoch": epoch, "seconds": 1.5})
    run.finish({"finished": "today"}, {"labels": {"0": "background"}})
    again = Run(str(tmp_path / "demo"))
    assert again.initial_weights() == "/other/weights.pt" and again.choice() == {"epoch": 3}
    assert again.training_seconds() == 3.0
    assert again.is_finished and again.record() == {"finished": "today"}
    assert json.loads(again.inference_file.read_text()) == {"labels": {"0": "background"}}


def test_a_title_tells_a_run_from_one_that_was_in_its_place(tmp_path):
    run = Run(tmp_path / "demo")
    assert run.title == "demo"
    run.create({})
    os.utime(run.config_file, (0, 0))
    run.log.append({"epoch": 1})
    assert run.title == "demo 1970-01-01 00:00:00"


def test_a_record_that_cannot_be_written_leaves_the_run_unfinished(tmp_path):
    with pytest.raises(TypeError):
        Run(tmp_path).finish({"finished": object()}, {})
    assert not Run(tmp_path).is_finished


def test_the_state_goes_and_the_model_stays(tmp_path):
    run = Run(tmp_path)
    for path in (run.state, run.best_model, run.model):
        path.write_text("")
    run.drop_state()
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    run.drop_state()


def test_runs_of_a_name_are_found_the_last_written_to_first(tmp_path):
    for number, (name, time) in enumerate([("demo", 30), ("demo_2", 20), ("demo_x", 40), ("other", 50)]):
        run = start_run(tmp_path, name, {"number": number})
        os.utime(run.config_file, (time, time))
    (tmp_path / "demo_3").mkdir()  # no run
    assert [run.folder.name for run in Run.find(tmp_path, "demo")] == ["demo", "demo_2"]
    Run(tmp_path / "demo_2").log.append({"epoch": 1})
    assert [run.folder.name for run in Run.find(tmp_path, "demo")] == ["demo_2", "demo"]
    assert Run.latest(tmp_path, "demo") is None
