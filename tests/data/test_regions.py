# SPDX-License-Identifier: Apache-2.0
"""Regions that overlap, from nnU-Net's dataset.json and from BraTS, in training, scores and predictions."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscrete

from scripts.cli import main
from scripts.data import (
    DataError,
    DecodeRegionsd,
    RegionMasksd,
    check_data,
    collect_cases,
    decode_regions,
    load_datalist,
)
from scripts.export import read_hub
from scripts.reports import CaseMetrics

SHAPE = (10, 9, 8)
BRATS = {"whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing tumour": [3]}
"""By class numbers: necrosis, oedema and the enhancing part, which is 4 in the files."""


def save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.5, 1.0])), path)


def brats(folder: Path, names: str = "abcd", images: str = "images/{}.nii.gz", labels: str = "labels/{}.nii.gz"):
    """Scans and labels of the values 0, 1, 2, 4, all in every label."""
    rng = np.random.default_rng(0)
    for name in names:
        save(folder / images.format(name), rng.normal(size=SHAPE).astype(np.float32))
        save(folder / labels.format(name), rng.choice([0, 1, 2, 4], SHAPE).astype(np.uint8))
    return folder


def nnunet(folder: Path, labels: dict, **more) -> Path:
    brats(folder, images="imagesTr/{}_0000.nii.gz", labels="labelsTr/{}.nii.gz")
    content = {"channel_names": {"0": "FLAIR"}, "labels": labels, "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def run(*command: object) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in command])
    return int(stopped.value.code or 0)


def datalist_of(folder: Path, *options: str) -> dict:
    assert run("split", folder, *options) == 0
    found = load_datalist(folder / "datalist.json")
    assert not check_data(found, progress=False).errors
    return found


def test_regions_of_nnunet_become_classes_and_their_unions(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 4], "core": [1, 4], "enhancing": 4}
    found = datalist_of(nnunet(tmp_path, labels, regions_class_order=[2, 1, 4]))
    assert found["values"] == [0, 1, 2, 4]
    assert found["labels"] == {0: "background", 1: "core 1", 2: "whole 2", 3: "enhancing"}
    assert found["regions"] == {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}


def test_regions_of_nnunet_beside_an_ignored_value(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 4}
    found = datalist_of(nnunet(tmp_path, labels))
    assert found["ignore"] == 4 and found["values"] is None
    assert found["labels"] == {0: "background", 1: "whole 1", 2: "core"}
    assert found["regions"] == {"whole": [1, 2], "core": [2]}
    labels |= {"whole": [1, 2, 4], "ignore": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    with pytest.raises(DataError, match="dataset.json: the ignored value 3 lies among those of the regions"):
        collect_cases(tmp_path)


@pytest.mark.parametrize("wrong", [[], ["1"], [1.5], [True], [-1]])
def test_regions_of_nnunet_that_are_none_are_refused(tmp_path, wrong, capsys):
    assert run("split", nnunet(tmp_path, {"background": 0, "whole": [1, 2, 4], "core": wrong})) == 1
    assert "dataset.json: not a dataset.json" in capsys.readouterr().err.replace("\n", " ")


def test_regions_are_named_by_the_values_of_the_files(tmp_path, capsys):
    option = "whole tumour=1+2+4,tumour core=1+4,enhancing tumour=4"
    found = datalist_of(brats(tmp_path), "--values", "0,1,2,4", "--regions", option)
    assert found["regions"] == BRATS
    assert "region: tumour core, classes 1, 3" in capsys.readouterr().out
    for text, message in (("whole=1+3", "region whole has the value 3"), ("whole", "'whole' is no region")):
        assert run("split", tmp_path, "--values", "0,1,2,4", "--regions", text, "--overwrite") == 1
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert run("train", tmp_path, "--regions", "whole=1+2") == 1
    assert "its regions are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (["whole"], '"regions" is .*Write e.g.'),
        ({"whole": 1}, 'region "whole" is 1; the classes are 1 a, 2 b'),
        ({"whole": []}, 'region "whole" is'),
        ({"whole": [0, 1]}, 'region "whole" is'),
        ({"whole": [1, 3]}, 'region "whole" is'),
        ({"whole": [1, 1]}, 'region "whole" is'),
        ({"a#b": [1]}, 'a region called "a#b"'),
        ({"_target_": [1]}, 'a region called "_target_"'),
        ({"$print(1)": [1]}, "code in a MONAI config"),
    ],
)
def test_regions_of_a_datalist_that_are_none_are_refused(tmp_path, regions, message):
    brats(tmp_path, "a")
    content = {"labels": {"0": "background", "1": "a", "2": "b"}, "regions": regions}
    content["training"] = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"datalist.json: .*{message}"):
        load_datalist(tmp_path / "datalist.json")


def probabilities(classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(classes, *SHAPE, generator=torch.Generator().manual_seed(seed)).softmax(0)


def test_nested_regions_are_those_above_one_half_as_nnunet_paints_them():
    p = probabilities(4).numpy()
    expected = np.zeros(SHAPE, int)
    for name, value in (("whole tumour", 2), ("tumour core", 1), ("enhancing tumour", 3)):  # regions_class_order
        expected[p[BRATS[name]].sum(0) > 0.5] = value
    found = decode_regions(torch.from_numpy(p), BRATS).numpy()
    assert np.array_equal(found, expected) and len(np.unique(found)) == 4
    assert (found != p.argmax(0)).any()


def test_regions_that_overlap_in_part_are_both_where_both_are_above_one_half():
    p, regions = probabilities(4, 1), {"left": [1, 3], "right": [2, 3]}
    found = decode_regions(p, regions)
    left, right = (p[classes].sum(0) > 0.5 for classes in regions.values())
    assert (found[left & right] == 3).all() and (found[left & ~right] == 1).all() and (found[right & ~left] == 2).all()
    assert (found[~left & ~right] == 0).all() and bool((left & right).any())


def test_a_class_of_no_region_and_signs_that_no_class_has():
    p = torch.tensor([[0.1, 0.1], [0.3, 0.3], [0.6, 0.1], [0.0, 0.5]])
    assert decode_regions(p, {"a": [1]}).tolist() == [2, 3]  # not in a: the most probable of the others
    both = torch.tensor([[0.0], [0.2], [0.2], [0.6]])
    assert decode_regions(both, {"a": [1, 3], "b": [2, 3], "c": [1, 2, 3]}).tolist() == [3]
    none = torch.tensor([[0.1], [0.3], [0.35], [0.25]])  # above one half in a, b and c, and no class is in all
    assert decode_regions(none, {"a": [1, 2], "b": [2, 3], "c": [1, 3]}).tolist() == [2]


def test_transforms_keep_geometry_and_other_keys():
    p = MetaTensor(probabilities(4), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    item = DecodeRegionsd(["pred", "pred_a"], BRATS, allow_missing_keys=True)({"pred": p, "other": 1})
    assert item["other"] == 1 and torch.equal(item["pred"].affine, p.affine)
    assert torch.equal(
        AsDiscrete(argmax=True)(item["pred"])[0].long().as_tensor(), decode_regions(p.as_tensor(), BRATS)
    )
    masks = RegionMasksd("pred", BRATS)(item)["pred"]
    classes = item["pred"].argmax(0)
    assert masks.shape[0] == 4 and torch.equal(masks.affine, p.affine)
    for channel, members in zip(masks[1:], BRATS.values(), strict=True):
        assert np.array_equal(channel.numpy() == 1, np.isin(classes.numpy(), members))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_regions_are_scored_in_the_place_of_classes(tmp_path):
    rng = np.random.default_rng(3)
    label, pred = (torch.from_numpy(rng.integers(0, 4, (1, *SHAPE))) for _ in range(2))
    handler = CaseMetrics(4, tmp_path, pred_keys=["pred"], regions=BRATS)
    item = {"label": MetaTensor(label), "pred": pred}
    item["image"] = MetaTensor(torch.zeros(1, *SHAPE), meta={"filename_or_obj": "x.nii.gz"})
    part = MetaTensor(label.clone(), meta={"classes": torch.tensor([True, True, False, True])})
    other = MetaTensor(torch.zeros(1, *SHAPE), meta={"filename_or_obj": "y.nii.gz"})
    engine = torch.nn.Module()
    engine.state = torch.nn.Module()
    engine.state.output, engine.state.metrics = [item, {**item, "label": part, "image": other}], {}
    handler._started(engine)
    handler._score(engine)
    handler._finish(engine)
    network = handler.summary["networks"]["ensemble"]
    assert list(network["classes"]) == list(BRATS) and handler.summary["labels"]["1"] == "whole tumour"
    expected = [dice(*(np.isin(one.numpy(), own) for one in (pred, label))) for own in BRATS.values()]
    found = [network["classes"][name]["dice"] for name in BRATS]
    assert [one["mean"] for one in found] == pytest.approx(expected)
    assert [one["n"] for one in found] == [1, 2, 2]  # a region is known where all of its classes were annotated


@pytest.mark.slow
def test_a_training_is_validated_scored_and_predicts_by_regions(tmp_path):
    """Two steps; then the run's model segments a scan, also slab by slab, with a mask for each region."""
    option = "whole tumour=1+2+4,tumour core=1+4,enhancing tumour=4"
    folder = brats(tmp_path / "scans")
    datalist_of(folder, "--values", "0,1,2,4", "--regions", option, "--validation", "1", "--test", "1")
    small = {"patch_size": [16, 16, 16], "base_channels": 4, "stem_stride": 1, "batch_size": 1, "max_epochs": 1}
    small |= {"epoch_length": 2, "val_interval": 1, "device": "cpu", "tensorboard": False, "spacing": [1.0, 1.0, 1.5]}
    options = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    assert run("train", folder, "--recipe", "cpu", "--runs", tmp_path / "runs", *options) == 0
    [folder_of_run] = (tmp_path / "runs").iterdir()
    summary = json.loads((folder_of_run / "metrics.json").read_text())
    assert list(summary["networks"]["ensemble"]["classes"]) == list(BRATS)
    override = json.loads((folder_of_run / "inference.json").read_text())
    assert override["regions"] == BRATS and override["label_values"] == [0, 1, 2, 4]

    [case] = load_datalist(folder / "datalist.json")["test"]
    for out, more in (("whole", []), ("slabs", ["--set", "memory_gib=0"])):
        words = ["predict", case["image"], tmp_path / out, "--model", folder_of_run, "--regions"]
        assert run(*words, *more) == 0
    name = f"{Path(case['image']).name[0]}_seg.nii.gz"
    files = sorted(str(path.relative_to(tmp_path / "whole")) for path in (tmp_path / "whole").rglob("*.nii.gz"))
    assert files == sorted([name, *(f"{region.replace(' ', '_')}/{name}" for region in BRATS)])
    for file in files:
        first, second = (np.asarray(nibabel.load(tmp_path / out / file).dataobj) for out in ("whole", "slabs"))
        assert (first == second).mean() > 0.99
    classes = np.asarray(nibabel.load(tmp_path / "whole" / name).dataobj)
    core = np.asarray(nibabel.load(tmp_path / "whole" / "tumour_core" / name).dataobj)
    assert np.array_equal(core == 1, np.isin(classes, [1, 4]))
    truth = np.asarray(nibabel.load(case["label"]).dataobj)
    scores = summary["networks"]["ensemble"]["classes"]["tumour core"]["dice"]["mean"]
    if core.any():
        assert scores == pytest.approx(dice(core == 1, np.isin(truth, [1, 4])), abs=0.02)
    assert "whole tumour ml" in (tmp_path / "whole" / "review.csv").read_text().splitlines()[0]
    assert run("export", folder_of_run, "--hub", tmp_path / "hub") == 0
    assert read_hub(tmp_path / "hub")["regions"] == BRATS
