# SPDX-License-Identifier: Apache-2.0
"""The page of a run: complete, self-contained, escaped, and alive in a browser."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from scripts.cli import main
from scripts.reports import CaseMetrics, CasePictures, WorstSlices, write_report
from scripts.reports.cases import Structure
from scripts.reports.slices import slice_strip
from scripts.runs import Run

ONE = Structure("chamber", (1,))
EVIL = "<script>alert(1)</script>"


def case(name, shift):
    label = torch.zeros(1, 16, 14, 12, dtype=torch.long)
    label[0, 4:10, 4:10, 4:10] = 1
    image = MetaTensor(torch.rand(1, 16, 14, 12), meta={"filename_or_obj": f"/data/{name}.nii.gz"})
    preds = {"pred": label.roll(shift, 1), "pred_a": label.roll(shift, 1), "pred_b": label.roll(-shift, 1)}
    return {"image": image, "label": MetaTensor(label), **preds}


def evaluate(folder, items, *handlers):
    engine = Engine(lambda engine, batch: batch)
    for handler in handlers:
        handler.attach(engine)
    engine.run([[item] for item in items])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "heart_seed0"
    labels = {"0": "background", "1": f"heart {EVIL}"}
    handlers = [kind(labels, folder) for kind in (CaseMetrics, CasePictures, WorstSlices)]
    evaluate(folder, [case(f"case{shift}", shift) for shift in (3, 0, 5, 1, 2, 4)], *handlers)
    (folder / "config.json").write_text(json.dumps({"method_name": EVIL, "seed": 3}))
    assert write_report(folder) == folder / "report.html"
    return Run(folder)


def test_the_page_has_every_part_and_needs_no_other_file(run):
    page = run.report.read_text()
    for heading in ("Scores", "Worst cases", "Worst, median and best", "agreement", "Every case"):
        assert re.search(f"<h2>[^<]*{heading}", page), heading
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|url\((?!data:|#)""", page)
    assert "<h2>Training" not in page  # no epoch was logged
    cases = re.findall(r"<tr><td>(case\d)</td>", page)
    assert cases == ["case5", "case4", "case3", "case2", "case1", "case0"]


def test_names_are_escaped(run):
    page = run.report.read_text()
    assert EVIL not in page and page.count("&lt;script&gt;alert(1)") >= 3


def test_only_the_worst_cases_have_slices(run):
    listed = json.loads(run.slices_file.read_text())
    assert [entry["case"] for entry in listed] == ["case5", "case4", "case3", "case2", "case1"]
    assert all((run.slices / entry["file"]).is_file() and entry["slices"] == 6 for entry in listed)
    assert listed[0]["dice"] == pytest.approx(1 / 6, abs=1e-6)


def test_a_strip_shows_the_outlines_the_right_way_up():
    label = np.zeros((8, 8, 4), np.uint8)
    label[5:8, 5:8, 1:3] = 1  # right, anterior
    strip, slices = slice_strip(np.zeros(label.shape), label, label * 0, label * 0 > 0, np.diag([2, 2, 5, 1]), [ONE])
    assert slices == 2 and strip.shape == (2 * 224, 224, 3)
    rows, columns = np.nonzero((strip[:224] != strip[:224, :1, :]).any(-1))
    assert rows.max() < 112 < columns.min()  # anterior is up, right is right
    turned = label[::-1].transpose(1, 0, 2)
    affine = np.array([[0, -2.0, 0, 14], [2, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    again, _ = slice_strip(np.zeros(turned.shape), turned, turned * 0, turned * 0 > 0, affine, [ONE])
    assert np.array_equal(strip, again)  # whatever the order of the axes in the file


def test_older_files_without_the_new_measures_still_give_a_page(tmp_path):
    run = Run(tmp_path)
    with run.scores_file.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["case", "network", "name", "dice"], ["a", "ensemble", "heart", 0.5]])
    write_report(tmp_path)
    assert "<td>a</td>" in run.report.read_text()


def test_the_command_writes_it_and_refuses_other_folders(run, tmp_path, capsys):
    run.report.unlink()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run.folder)])
    assert ended.value.code == 0 and run.report.is_file()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 1 and "no run, and no evaluation" in capsys.readouterr().err


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_errors(run, tmp_path, width):
    """The table sorts, a slider moves its slices, nothing scrolls sideways, the console stays empty."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    probe = """<script>
      const failures = [];
      addEventListener("error", event => failures.push(event.message));
      addEventListener("load", () => {
        const slider = document.querySelector(".strips input"), strip = slider.previousElementSibling;
        slider.value = slider.max;
        slider.dispatchEvent(new Event("input"));
        document.querySelectorAll("#cases button")[2].click();
        document.querySelectorAll("#cases button")[2].click();
        document.title = JSON.stringify({
          failures, position: strip.style.backgroundPositionY, first: document.querySelector("#cases td").textContent,
          sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        });
      });
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(run.report.read_text().replace("<head>", "<head>" + probe, 1))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--enable-logging"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search("<title>(.*?)</title>", done.stdout)[1]
    found = json.loads(title.replace("&quot;", '"'))
    assert found == {"failures": [], "position": "100%", "first": "case0", "sideways": 0}
    assert "CONSOLE" not in done.stderr
