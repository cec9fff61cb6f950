# SPDX-License-Identifier: Apache-2.0
"""The data lists of the trainings on labels that are not complete, and the table of what they found."""

import json
import shlex

import nibabel
import numpy as np
import pytest

from scripts.data import check_data, has_partial_labels, load_datalist

SHAPE = (6, 6, 10)


@pytest.fixture
def scans(tmp_path):
    """Folders of the structure that the script expects: three labelled scans for ACDC, eight for the hippocampus."""
    generator = np.random.default_rng(0)
    for dataset, names, labels in (("acdc", "abcd", 8), ("hippocampus", "abcdefghi", 8)):
        folder, cases = tmp_path / dataset, []
        for kind in ("images", "labels", "scribbles"):
            (folder / kind).mkdir(parents=True)
        for name in names:
            label = generator.integers(0, 4 if dataset == "acdc" else 3, SHAPE).astype(np.uint8)
            voxels = {"images": generator.normal(size=SHAPE).astype(np.float32), "labels": label}
            voxels["scribbles"] = np.where(generator.random(SHAPE) < 0.5, label, 4).astype(np.uint8)
            for kind, values in voxels.items():
                nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / kind / f"{name}.nii.gz")
            cases.append({"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"})
        classes = {str(value): str(value) for value in range(4 if dataset == "acdc" else 3)}
        content = {"labels": classes, "training": cases[:labels] if dataset == "hippocampus" else cases[:3]}
        content["test"] = cases[-1:]
        for name in ("3", "7") if dataset == "acdc" else ("8",):
            (folder / f"datalist_{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_every_training_has_a_sound_datalist(benchmark_scripts, scans, tmp_path, capsys):
    sparse = benchmark_scripts("sparse")
    work = tmp_path / "work"
    sparse.make(str(scans), str(work), few=0)
    assert not load_datalist(work / "acdc_3_whole.json")["test"]
    sparse.make(str(scans), str(work))
    names = {one.datalist for one in sparse.TRAININGS.values()}
    assert {path.stem for path in work.glob("*.json")} == names
    found = {name: load_datalist(work / f"{name}.json") for name in names}
    for datalist in found.values():
        check_data(datalist, progress=False)
    partial = {name for name, datalist in found.items() if has_partial_labels(datalist)}
    assert partial == {"acdc_3_scribbles", "acdc_7_scribbles", "hippocampus_slices", "hippocampus_parts"}
    assert all(
        datalist["test"] == found["hippocampus_whole"]["test"] for name, datalist in found.items() if "hippo" in name
    )

    def voxels(name, number):
        return np.asarray(nibabel.load(found[name]["training"][number]["label"]).dataobj)

    for number in range(8):
        whole = voxels("hippocampus_whole", number)
        drawn = voxels("hippocampus_slices", number)
        assert np.array_equal(drawn[..., [2, 6]], whole[..., [2, 6]])
        assert (drawn[..., [0, 1, 3, 4, 5, 7, 8, 9]] == 255).all()
        shown = 1 if number < 4 else 2
        assert np.array_equal(voxels("hippocampus_parts", number) == shown, whole == shown)
        assert found["hippocampus_parts"]["training"][number]["classes"] == [shown]
        assert "classes" not in found["hippocampus_parts_rest"]["training"][number]
    assert found["acdc_3_scribbles"]["training"][0]["label"].endswith("scribbles/a.nii.gz")

    capsys.readouterr()
    sparse.commands(str(work), max_epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(sparse.TRAININGS) and all("--max_epochs 2" in line for line in lines)
    sparse.commands(str(work), only=("hippocampus_slices", "acdc_3_whole"))  # Fire makes a tuple of words with commas
    assert [line for line in capsys.readouterr().out.splitlines() if "acdc_3_whole" in line or "_slices" in line][1:]
    words = shlex.split(next(line for line in lines if "hippocampus_parts_control" in line))
    assert "configs/methods/control.json" in words[words.index("--config_file") + 1]
    assert words[words.index("--datalist_name") + 1] == "hippocampus_parts.json"


def test_the_table_compares_with_whole_labels_seed_by_seed(benchmark_scripts, tmp_path, capsys):
    sparse = benchmark_scripts("sparse")

    def finished(name, seed, dice):
        folder = tmp_path / "runs" / f"{name}_seed{seed}"
        folder.mkdir(parents=True)
        for file in ("config.json", "run.json"):
            (folder / file).write_text("{}")
        networks = {"ensemble": {"mean_foreground": {"dice": {"mean": dice}}}}
        (folder / "metrics.json").write_text(json.dumps({"networks": networks}))

    finished("hippocampus_whole", 0, 0.85)
    finished("hippocampus_whole", 1, 0.80)
    finished("hippocampus_slices", "1_2", 0.79)  # beside an unfinished one of other options
    sparse.table(str(tmp_path))
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines == [
        "| hippocampus_whole | default | 0, 1 | 0.8250 |  |",
        "| hippocampus_slices | sparse | 1 | 0.7900 | -1.0 |",
    ]


def test_several_at_a_time_are_the_same_trainings(benchmark_scripts, tmp_path, capsys, monkeypatch):
    sparse, pool, started = benchmark_scripts("sparse"), benchmark_scripts("pool"), []
    monkeypatch.setattr(pool, "train_all", lambda jobs, count, minutes: started.append((jobs, count, minutes)))
    sparse.train(str(tmp_path), only="acdc_3_scribbles,hippocampus_slices", seeds=2, jobs=8, minutes=5, max_epochs=2)
    ((jobs, count, minutes),) = started
    assert (count, minutes) == (8, 5)
    names = [f"{name}_seed{seed}" for seed in (0, 1) for name in ("acdc_3_scribbles", "hippocampus_slices")]
    assert [job.title for job in jobs] == names
    capsys.readouterr()
    sparse.commands(str(tmp_path), only="acdc_3_scribbles,hippocampus_slices", seeds=2, max_epochs=2)
    printed = [shlex.split(line)[3:] for line in capsys.readouterr().out.splitlines()]
    assert [words() for job in jobs for words, _ in job.left] == printed
