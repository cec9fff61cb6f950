# SPDX-License-Identifier: Apache-2.0
"""The table at the end of an evaluation: on the screen, as markdown, with the list of files."""

import io
import json

import pytest
from rich.console import Console

from scripts.reports import report_results, results_markdown, results_table, summarize


def row(network, name, dice, image, **flags):
    values = {"dice": dice, "jaccard": dice / 2, "hd95_mm": 10 * dice, "hd95_pooled_mm": 1.0, "asd_mm": 0.5}
    values |= {"hd95_voxels": 1.0, "hd95_pooled_voxels": 1.0, "asd_voxels": 1.0}
    values |= {"surface_dice": dice, "volume_error_ml": 0.1}
    flags = {"empty_pred": False, "empty_label": False} | flags
    return {"case": image, "image": image, "network": network, "class": 1, "name": name, **values, **flags}


def summary_of(rows):
    conventions = {"hd95": "larger of the two"}
    return {"cases": 2, "labels": {}, "networks": summarize(rows), "conventions": conventions}


@pytest.fixture
def two_classes():
    rows = [
        row(n, c, d, i) for n in ("ensemble", "V-Net") for c in ("head", "tail") for i, d in (("x", 0.5), ("y", 1.0))
    ]
    return summary_of(rows)


def printed(table):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_network_judged_comes_last_with_its_mean_over_classes(two_classes):
    table = results_table(two_classes)
    networks, classes = (list(column.cells) for column in table.columns[:2])
    assert networks == ["V-Net", "", "", "ensemble", "", ""]
    assert classes == ["head", "tail", "mean"] * 2
    text = printed(table)
    assert "0.750 ± 0.250" in text and "0.375 ± 0.125" in text and "7.50 ± 2.50" in text and "0.50 ± 0.00" in text
    assert "HD95 (mm)" in text and "2 cases" in text


def test_one_class_needs_no_mean_row():
    table = results_table(summary_of([row("ensemble", "atrium", 0.9, "x")]))
    assert list(table.columns[1].cells) == ["atrium"]


def test_empty_predictions_are_told():
    summary = summary_of([row("ensemble", "atrium", 0.0, "x", empty_pred=True)])
    assert "ensemble: 1 empty predictions, 0 empty labels" in printed(results_table(summary)).replace("\n", " ")
    assert "ensemble: 1 empty predictions" in results_markdown(summary)


def test_a_class_without_a_value_says_so():
    nan = float("nan")
    values = {k: nan for k in row("e", "c", 0.0, "x") if k.startswith(("dice", "jaccard", "hd95", "asd"))}
    summary = summary_of([row("ensemble", "atrium", 0.0, "x", empty_pred=True, empty_label=True) | values])
    assert results_table(summary).columns[2]._cells == ["no value"]


def test_markdown_is_a_table_with_its_convention(two_classes):
    lines = results_markdown(two_classes).splitlines()
    assert lines[0] == "| Network | Class | Dice | Jaccard | HD95 (mm) | ASD (mm) |"
    assert lines[2] == "| V-Net | head | 0.750 ± 0.250 | 0.375 ± 0.125 | 7.50 ± 2.50 | 0.50 ± 0.00 |"
    assert len({line.count("|") for line in lines[:8]}) == 1
    assert "larger of the two" in lines[-1]


def test_the_report_prints_writes_and_lists(tmp_path, two_classes):
    (tmp_path / "metrics.json").write_text(json.dumps(two_classes))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "best.png").touch()
    console = Console(width=120, record=True, file=io.StringIO())
    report_results(tmp_path, console)
    text = console.export_text()
    assert "0.750 ± 0.250" in text and str(tmp_path) in text
    assert "pictures/ (1 file)" in text and "results.md" in text
    assert (tmp_path / "results.md").read_text() == results_markdown(two_classes)


def test_names_are_shown_as_they_are(tmp_path, two_classes):
    """A name is neither markup of the terminal nor of the page, and ends no cell."""
    name = "[bold]a|b[/x] <img src=x onerror=alert(1)> `c`\n# d"
    classes = two_classes["networks"]["ensemble"]["classes"]
    classes[name] = classes.pop(next(iter(classes)))
    text = results_markdown(two_classes)
    (row,) = [line for line in text.splitlines() if "onerror" in line]
    assert "<img" not in text and "&lt;img src=x" in row and r"a\|b" in row and r"\`c\`" in row
    header = text.splitlines()[0]
    assert row.replace(r"\|", "").count("|") == header.count("|")
    console = Console(width=200, record=True)
    console.print(results_table(two_classes))
    assert "[bold]a|b[/x]" in console.export_text()
