# SPDX-License-Identifier: Apache-2.0
"""Scribbles, some slices, some classes: from the datalist to the crop and the metric."""

import json

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.metrics import DiceMetric
from monai.transforms import AsDiscrete

from scripts.annotation import IGNORED
from scripts.cli import main
from scripts.data import (
    AnnotatedLabeld,
    DataError,
    LeaveOutIgnoredd,
    check_data,
    has_partial_labels,
    inspect_data,
    load_datalist,
    split_cases,
    unlabeled_cases,
)

SHAPE = (10, 9, 8)
NAMES = {"0": "background", "1": "heart", "2": "lung"}


def save(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def scribbles(seed, classes=(0, 1, 2), share=0.1, ignore=255):
    """Blocks of classes, of which one voxel in ten is drawn."""
    generator = np.random.default_rng(seed)
    whole = np.zeros(SHAPE, np.uint8)
    whole[2:6, 2:6, 2:6], whole[6:9, 6:9, 2:6] = 1, 2
    whole = np.where(np.isin(whole, classes), whole, 0)
    return np.where(generator.random(SHAPE) < share, whole, ignore).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("abcu"):
        save(tmp_path / "images" / f"{name}.nii.gz", np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32))
    save(tmp_path / "labels" / "a.nii.gz", scribbles(0))
    save(tmp_path / "labels" / "b.nii.gz", scribbles(1, classes=(0, 1)))
    save(tmp_path / "labels" / "c.nii.gz", scribbles(2))
    return tmp_path


def write(folder, labels=None, **changes):
    case = {name: {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "abc"}
    content = {
        "labels": labels or NAMES,
        "ignore": 255,
        "training": [case["a"], case["b"] | {"classes": ["heart"]}],
        "unlabeled": [{"image": "images/u.nii.gz"}],
        "test": [case["c"]],
    } | changes
    path = folder / "datalist.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def run(*command):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in command])
    assert end.value.code == 0


def problem(call, *arguments, **options):
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    [text] = caught.value.problems
    return text


def test_a_datalist_names_the_ignored_value_in_two_ways(folder):
    for labels, ignore in ((NAMES, 255), (NAMES | {"255": "ignore"}, None), (NAMES | {"255": " Ignore "}, 255)):
        found = load_datalist(write(folder, labels, ignore=ignore))
        assert found["ignore"] == 255 and found["labels"] == {int(k): v for k, v in NAMES.items()}
    assert load_datalist(write(folder, ignore=None))["ignore"] is None


@pytest.mark.parametrize(
    ("labels", "ignore", "text"),
    [
        (NAMES, 2, "the ignored value 2 is a class"),
        (NAMES, 0, "save them as 255, and background strokes as 0"),
        (NAMES, "255", "\"ignore\" is '255'. Write the label value"),
        (NAMES, True, '"ignore" is True'),
        (NAMES | {"3": "ignore"}, 255, "two ignored values, [3, 255]"),
        (NAMES | {"3": "ignore", "4": "IGNORE"}, None, "two ignored values, [3, 4]"),
    ],
)
def test_an_ignored_value_that_makes_no_sense_is_refused(folder, labels, ignore, text):
    assert text in problem(load_datalist, write(folder, labels, ignore=ignore))


def test_classes_of_a_case_by_number_or_name(folder):
    case = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}
    for classes, expected in (([1], [1]), (["background", "lung"], [2]), ([2, "heart"], None), (None, None)):
        given = case if classes is None else case | {"classes": classes}
        assert load_datalist(write(folder, training=[given]))["training"][0].get("classes") == expected
    for classes, text in (
        ("heart", "List the annotated classes by number or name, of 1 heart, 2 lung"),
        ([3], '"classes" has 3. The classes are 1 heart, 2 lung.'),
        (["kidney"], "\"classes\" has 'kidney'"),
        ([0], '"classes" names no structure'),
        ([], '"classes" names no structure'),
        ([True], '"classes" is [True]'),
    ):
        found = problem(load_datalist, write(folder, training=[case | {"classes": classes}]))
        assert text in found and "images/a.nii.gz" in found


def test_scans_whose_labels_lack_something_are_in_the_unlabelled_stream_too(folder):
    def names(**changes):
        datalist = load_datalist(write(folder, **changes))
        return has_partial_labels(datalist), [case["image"][-8:] for case in unlabeled_cases(datalist)]

    assert names() == (True, ["u.nii.gz", "a.nii.gz", "b.nii.gz"])
    assert names(ignore=None) == (True, ["u.nii.gz", "b.nii.gz"])
    assert names(ignore=None, training=[{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]) == (
        False,
        ["u.nii.gz"],
    )
    assert all(set(case) == {"image"} for case in unlabeled_cases(load_datalist(write(folder))))


def test_the_check_counts_what_was_drawn(folder):
    report = check_data(load_datalist(write(folder)), progress=False)
    voxels = scribbles(0)
    case = report.cases[0]
    assert case.label_voxels == {value: int((voxels == value).sum()) for value in (0, 1, 2)}
    assert case.ignored_voxels == int((voxels == 255).sum())
    image = nibabel.load(folder / "images" / "a.nii.gz").get_fdata(dtype=np.float32)
    drawn = image[(voxels > 0) & (voxels != 255)]
    assert case.foreground[0]["mean"] == pytest.approx(drawn.mean(), abs=1e-6)  # all voxels of so small a scan
    assert report.cases[1].classes == [1] and not report.warnings


def test_the_check_refuses_what_contradicts_the_datalist(folder):
    datalist = load_datalist(write(folder, training=[{"image": "images/b.nii.gz", "label": "labels/b.nii.gz"}]))
    datalist["training"][0]["classes"] = [2]
    found = problem(check_data, datalist, progress=False)
    count = (scribbles(1, classes=(0, 1)) == 1).sum()
    assert f'class 1 (heart) in {count} voxels, but the case\'s "classes" are 2. Add it there' in found
    save(folder / "labels" / "b.nii.gz", np.full(SHAPE, 255, np.uint8))
    found = problem(check_data, load_datalist(write(folder)), progress=False)
    assert "labels/b.nii.gz: every voxel has the ignored value 255" in found
    save(folder / "labels" / "b.nii.gz", scribbles(1, ignore=4))
    found = inspect_data(load_datalist(write(folder, ignore=None)), progress=False).errors
    assert any('add "ignore": 4 to the datalist' in error for error in found)
    named = {**NAMES, "3": "ignore"}
    assert "which is no class" in problem(check_data, load_datalist(write(folder)), named, progress=False)


def test_split_takes_an_ignored_value(folder, capsys):
    run("split", folder, "--ignore", 255, "--test", 1)
    assert "ignored: 255" in capsys.readouterr().out
    datalist = json.loads((folder / "datalist.json").read_text())
    assert datalist["ignore"] == 255 and list(datalist["labels"]) == ["0", "1", "2"]
    run("check", folder)
    share = np.mean([scribbles(s, c) == 255 for s, c in ((0, (0, 1, 2)), (1, (0, 1)), (2, (0, 1, 2)))])
    assert f"3 labels with ignored voxels, {share:.0%} of these scans" in capsys.readouterr().out
    assert "--ignore 255" in problem(split_cases, folder, progress=False)
    assert "--ignore 2.5" in problem(split_cases, folder, ignore=2.5)
    assert "255 is a class" in problem(split_cases, folder, names=["background", *map(str, range(255))], ignore=255)


def test_split_keeps_the_ignored_label_of_nnunet(folder):
    (folder / "imagesTr").mkdir()
    for name in "abc":
        (folder / "images" / f"{name}.nii.gz").rename(folder / "imagesTr" / f"{name}_0000.nii.gz")
    (folder / "labels").rename(folder / "labelsTr")
    labels = {"background": 0, "heart": 1, "lung": 2, "ignore": 255}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    run("split", folder)
    found = load_datalist(folder / "datalist.json")
    assert found["ignore"] == 255 and len(found["labels"]) == 3
    assert not check_data(found, progress=False).errors


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int16])
def test_the_ignored_value_of_any_type_of_label_becomes_one_constant(dtype):
    values = torch.tensor([[0, 1, 2, 255]])
    label = MetaTensor(values.to(dtype), meta={"filename_or_obj": "x"})
    found = AnnotatedLabeld("label", 3, ignore=255)({"label": label, "classes": [2]})
    assert found["label"].tolist() == [[0, 1, 2, IGNORED]] and found["label"].meta["filename_or_obj"] == "x"
    assert found["classes"].tolist() == found["label"].meta["classes"].tolist() == [True, False, True]
    assert label.tolist() == values.tolist()
    assert AnnotatedLabeld("label", 3)({"label": label})["classes"].tolist() == [True] * 3
    assert AnnotatedLabeld("label", 3, 255, allow_missing_keys=True)({"image": label}).keys() == {"image"}


def test_validation_leaves_out_ignored_voxels():
    """MONAI's Dice after the transforms of the config, against the formula over the voxels that were drawn."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(3, *SHAPE, generator=generator).softmax(0)
    label = torch.randint(0, 3, (1, *SHAPE), generator=generator)
    label[:, 4:] = IGNORED
    item = LeaveOutIgnoredd("pred")({"pred": MetaTensor(p), "label": MetaTensor(label)})
    pred = AsDiscrete(argmax=True, to_onehot=3)(item["pred"])
    found = DiceMetric(include_background=False)(pred[None], AsDiscrete(to_onehot=3)(item["label"])[None])[0]
    classes, truth = p.argmax(0).numpy()[:4], label.numpy()[0, :4]
    expected = [2 * ((classes == c) & (truth == c)).sum() / ((classes == c).sum() + (truth == c).sum()) for c in (1, 2)]
    assert found.tolist() == pytest.approx(expected)


def test_the_config_crops_around_drawn_voxels_and_pads_with_ignored_ones(folder, bundle_root):
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / "train.json"))
    path = write(folder)
    parser.config.update(
        {"dataset_dir": str(folder), "datalist_name": path.name, "labels": NAMES, "patch_size": [6, 6, 16]}
        | {"bundle_root": str(bundle_root), "device": "cpu", "cache_rate": 0.0, "spacing": [1.0, 1.0, 2.0]}
    )
    dataset = parser.get_parsed_content("train#dataset")
    unlabeled = parser.get_parsed_content("train#unlabeled#dataset")
    assert len(dataset) == 2 and len(unlabeled) == 3
    for case, classes in ((0, [True] * 3), (1, [True, True, False])):
        for _ in range(8):
            item = dataset[case]
            drawn = item["label"][item["label"] != IGNORED]
            assert len(drawn) > 0 and item["label"].min() == IGNORED and set(drawn.unique().tolist()) <= {0, 1, 2}
            assert item["classes"].tolist() == classes
    padded = parser.get_parsed_content("train#deterministic_transforms")
    item = {"image": str(folder / "images" / "a.nii.gz"), "label": str(folder / "labels" / "a.nii.gz")}
    for transform in filter(None, padded):
        item = transform(item)
    rim = item["label"][:, :, :, [0, 1, 2, 3, -4, -3, -2, -1]]
    assert item["label"].shape[1:] == (10, 9, 16) and (rim == IGNORED).all()
    assert "classes" not in unlabeled[0] and "label" not in unlabeled[0]


@pytest.mark.slow
def test_a_training_on_scribbles_and_parts_validates_and_scores_what_was_drawn(folder, bundle_root, tmp_path):
    """Two steps of each part of the method sparse; the test case has its first class alone."""
    files = ["train", "methods/sparse"]
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / f"{name}.json") for name in files])
    case = {"image": "images/c.nii.gz", "label": "labels/c.nii.gz"}
    shown = scribbles(2, classes=(0, 1))
    save(folder / "labels" / "c.nii.gz", shown)
    save(folder / "images" / "v.nii.gz", np.random.default_rng(9).normal(size=SHAPE).astype(np.float32))
    save(folder / "labels" / "v.nii.gz", scribbles(3, share=0.5))
    validation = [{"image": "images/v.nii.gz", "label": "labels/v.nii.gz"}]
    path = write(folder, test=[case | {"classes": [1]}], validation=validation)
    small = {"patch_size": [16, 16, 16], "base_channels": 4, "stem_stride": 1, "batch_size": 2, "max_epochs": 4}
    small |= {"unlabeled_batch_size": 2, "epoch_length": 1, "val_interval": 2, "device": "cpu", "tensorboard": False}
    small |= {"dataset_dir": str(folder), "datalist_name": path.name, "labels": NAMES, "spacing": [1.0, 1.0, 2.0]}
    parser.config.update({**small, "bundle_root": str(bundle_root), "runs_dir": str(tmp_path / "runs")})
    trainer, evaluator = (parser.get_parsed_content(f"{part}") for part in ("train#trainer", "test#evaluator"))
    trainer.run()
    last = {name for name, value in trainer.state.output.items() if value.ndim == 0}
    assert {"supervised_a", "mixed_teaching_b", "copy_paste_a", "rectification_b"} <= last
    validation = parser.get_parsed_content("validate#evaluator").state.metrics["val_mean_dice"]
    assert 0 <= validation <= 1
    evaluator.run()
    [metrics] = [one for one in parser.get_parsed_content("test#handlers") if hasattr(one, "rows")]
    rows = [row for row in metrics.rows if row["network"] == "ensemble"]
    assert [np.isnan(row["dice"]) for row in rows] == [False, True]
    network = parser.get_parsed_content("ensemble")
    with torch.no_grad():
        item = parser.get_parsed_content("validate#preprocessing")(load_datalist(path)["test"][0])
        pred = parser.get_parsed_content("validate#inferer")(item["image"][None], network.eval())[0].argmax(0).numpy()
    p, t = (pred == 1) & (shown != 255), shown == 1
    assert rows[0]["dice"] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=1e-6)
