# SPDX-License-Identifier: Apache-2.0
"""``dualseg methods`` lists what configs/methods holds, and knows which names are wrong."""

from pathlib import Path

import pytest

from scripts.cli import main

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in ROOT.glob("configs/methods/*.json"))


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["methods", *arguments])
    return stopped.value.code, capsys.readouterr()


def test_every_method_is_listed_with_what_it_does(capsys):
    code, shown = run(capsys)
    assert code == 0 and all(name in shown.out for name in NAMES)
    assert "mean_teacher_copy_paste (default)" in shown.out


def test_one_method_is_shown_by_its_name(capsys):
    code, shown = run(capsys, "rcps")
    assert code == 0 and "RCPS" in shown.out and "fixmatch" not in shown.out


def test_a_name_that_does_not_exist_is_an_error_that_lists_the_names(capsys):
    code, shown = run(capsys, "rpcs")
    assert code == 1
    assert "".join(shown.err.split()) == "".join(
        f"Error: rpcs: no method has this name. There are {', '.join(NAMES)}.".split()
    )


def test_the_page_of_methods_has_every_one_of_them():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert not [name for name in NAMES if f"<code>{name}</code>" not in page and f"`{name}`" not in page]
