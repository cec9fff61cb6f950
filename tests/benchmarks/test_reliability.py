# SPDX-License-Identifier: Apache-2.0
"""The page on runs says what the benchmarks have found, and none of them has found anything bad."""

import pytest

from benchmarks import reliability


def rows(table):
    return reliability.read().get(table, [])


def test_the_tables_of_the_page_are_what_the_file_says():
    assert reliability.PAGE.read_text() == reliability.page(), "python benchmarks/reliability.py was not run"


def test_every_killed_run_ended_as_the_one_that_was_left_alone():
    assert rows("kill_resume")
    for row in rows("kill_resume"):
        assert row["runs"] == row["ended"] == row["bit for bit"] and not row["left over"], row


def test_every_damaged_run_ended_the_same_or_in_a_sentence():
    assert {row["damaged"] for row in rows("damage")} == {"in training", "before the end"}
    for row in rows("damage"):
        assert {value for key, value in row.items() if key not in ("damaged", "file")} <= {"same", "sentence", "new"}


def test_faults_saving_and_losses():
    assert all(row["sentences"] == 1 and not row["tracebacks"] for row in rows("faults"))
    assert all(float(row["share"].rstrip("%")) < 2 for row in rows("saving"))
    assert all(row["not finite"] == 0 for row in rows("fuzz"))


def test_a_row_takes_the_place_of_the_one_with_the_same_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(reliability, "RESULTS", tmp_path / "results.json")
    for found in (1, 2):
        reliability.keep_row("t", {"a": "x", "found": found}, ("a",))
    reliability.keep_row("t", {"a": "y", "more": 3}, ("a",))
    assert reliability.read()["t"] == [{"a": "x", "found": 2}, {"a": "y", "more": 3}]
    table = "| a | found | more |\n| --- | --- | --- |\n| x | 2 |  |\n| y |  | 3 |\n"
    assert reliability.table_of(reliability.read()["t"]) == table
    assert reliability.table_of([]) == "not run\n"


def test_a_page_without_a_place_for_a_table_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "runs.md")
    (tmp_path / "runs.md").write_text("nothing")
    with pytest.raises(SystemExit, match="kill_resume"):
        reliability.page()
