# SPDX-License-Identifier: Apache-2.0
"""What people read is true where a program can tell: figures, links, versions, commands of files that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/lab/*.md"), *ROOT.glob("docs/examples/*.md")}
)
SHORT = [page for page in PAGES if page.parent in (ROOT, ROOT / "docs")]
TABLE = re.compile(r"<!-- table (.+?) -->\n.*?<!-- end of \1 -->\n", re.DOTALL)


def name(page):
    return str(page.relative_to(ROOT))


def metadata():
    return json.loads((ROOT / "metadata.json").read_text())


def pins(file):
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / file).read_text(), re.MULTILINE))


def project():
    """The table of the project in pyproject.toml, as text: tomllib is not in every Python that is supported."""
    text = (ROOT / "pyproject.toml").read_text()
    return text[text.index("[project]") : text.index("[project.scripts]")]


def runs(dataset):
    return json.loads((ROOT / "benchmarks" / "results" / f"{dataset}.json").read_text())["runs"]


def test_every_table_of_results_is_what_the_result_files_say():
    code = (
        "import sys, results\n"
        "stale = [str(page) for page, text in results.pages().items() if page.read_text() != text]\n"
        "sys.exit(f'python benchmarks/results.py was not run: {stale}' if stale else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "docs/README.md", "docs/results.md", "docs/ablation.md"])
def test_no_score_is_typed_by_hand(page):
    typed = TABLE.sub("", (ROOT / page).read_text())
    assert not re.findall(r"\b0\.[6-9]\d{2,}(?! mm)|\bp = ", typed)


def test_the_readme_is_short_and_has_no_p_values():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 80
    assert not re.search(r"\bp\s*[=<]|p-value", text)


def test_metadata_gives_the_score_of_the_shipped_weights():
    (shipped,) = [run for run in runs("left_atrium") if run.get("shipped") == "models/model.pt"]
    assert metadata()["eval_metrics"] == {"mean_dice": round(shipped["networks"]["ensemble"]["dice"][0], 3)}
    assert all(len(line) < 100 and not re.search(r"0\.\d", line) for line in metadata()["changelog"].values())


@pytest.mark.parametrize("dataset", ["left_atrium", "hippocampus"])
def test_every_file_of_weights_is_a_run_in_the_result_files(dataset):
    files = [run["shipped"] for run in runs(dataset) if "shipped" in run]
    assert len(files) == 1 and (ROOT / files[0]).is_file()


def test_no_more_than_two_files_of_weights_are_kept():
    assert len(list((ROOT / "models").glob("*.pt"))) <= 2


@pytest.mark.parametrize("page", SHORT, ids=name)
def test_lines_are_short(page):
    assert not [line for line in page.read_text().splitlines() if len(line) >= 160]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("page", SHORT, ids=name)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    named = set(re.findall(r"(?:configs|benchmarks|docs|tests)/[\w/]+\.(?:json|py|md|sh|conf)\b", text))
    assert not [path for path in named if "NAME" not in path and "DATASET" not in path and not (ROOT / path).exists()]


def test_every_version_is_in_the_changelog():
    sections = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections == list(metadata()["changelog"])


def test_one_version_everywhere():
    installed = re.search(r'^version = "(\S+)"$', project(), re.MULTILINE)[1]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert installed == metadata()["version"] == citation


def test_the_hooks_run_the_ruff_that_is_pinned():
    hooks = re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert set(hooks) == {pins("requirements.txt")["ruff"]}


def test_the_lowest_versions_are_those_that_are_promised():
    floors = dict(re.findall(r'"([\w-]+)>=([\d.]+)', project().split("docs = ")[0]))
    assert {"monai", "torch", "scipy"} <= floors.keys()
    lowest = pins("requirements-lowest.txt")
    assert floors.keys() - lowest.keys() == {"mlflow"}
    for package in floors.keys() - {"mlflow", "torch"}:  # the file says why
        assert (lowest[package] + ".").startswith(floors[package] + "."), package
    for tool in ("pytest", "hypothesis"):
        assert lowest[tool] == pins("requirements.txt")[tool]
