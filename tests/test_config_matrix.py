# SPDX-License-Identifier: Apache-2.0
"""Every data set with every recipe and every method: the configs fit together, whatever their order."""

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DATASETS = [None, *sorted(path.stem for path in CONFIGS.glob("datasets/*.json"))]
METHODS = [None, *sorted(path.stem for path in CONFIGS.glob("methods/*.json"))]
RECIPES = [None, "cpu", "paper"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder that can stand for every data set: two labelled and two unlabelled scans under every datalist's name."""
    folder = tmp_path_factory.mktemp("scans")
    voxels = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    for number in range(4):
        nibabel.save(nibabel.Nifti1Image(voxels + number, np.eye(4)), folder / f"image{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image((voxels > 1).astype(np.uint8), np.eye(4)), folder / f"label{number}.nii.gz")
    cases = [{"image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz"} for number in range(2)]
    unlabeled = [{"image": f"image{number}.nii.gz"} for number in (2, 3)]
    datalist = {"labels": {"0": "background", "1": "organ"}, "training": cases, "unlabeled": unlabeled}
    names = {json.loads(path.read_text()).get("datalist_name") for path in CONFIGS.glob("datasets/*.json")}
    for name in names | {"datalist.json"}:
        (folder / str(name)).write_text(json.dumps(datalist))
    return folder


def layers(dataset, recipe, method, *more):
    named = [("datasets", dataset), ("recipes", recipe), ("methods", method), *more]
    return [CONFIGS / "train.json", *(CONFIGS / kind / f"{name}.json" for kind, name in named if name is not None)]


LOCATOR = ComponentLocator()  # finds every class of MONAI: once is enough
SHAPES = ("network_def", "base_channels", "stem_stride", "strides", "norm", "dropout", "labels", "in_channels")
NETWORKS = {}


@pytest.fixture(autouse=True)
def no_initial_weights(monkeypatch):
    """Weights on the meta device have no values, so none are drawn."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "zeros_", "ones_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


def read(files, scans, runs):
    """The merged config, with scans and runs of this test."""
    parser = ConfigParser()
    parser.locator = LOCATOR
    parser.read_config([str(file) for file in files])
    own = {"dataset_dir": str(scans), "runs_dir": str(runs), "bundle_root": str(CONFIGS.parent), "cache_rate": 0.0}
    parser.config.update({**own, "device": "meta", "tensorboard": False})
    parser.config["initial_weights"] = None  # of a run that is not here
    return parser


def instantiate(parser):
    """The parts of a training that a config makes, with networks that have shapes but no weights."""
    shapes = json.dumps({name: parser.config[name] for name in SHAPES}, sort_keys=True)
    if shapes not in NETWORKS:
        with torch.device("meta"):
            NETWORKS[shapes] = parser.get_parsed_content("network_def")
    parser.globals["network_of_this_shape"] = NETWORKS[shapes]
    parser.config["network_def"] = "$network_of_this_shape"
    parser.parse(reset=True)
    parts = {name: parser.get_parsed_content(name) for name in ("method", "optimizer")}
    handlers = parser.get_parsed_content("train#handlers")
    parser.get_parsed_content("train#trainer")
    assert parts["method"].terms and len(handlers) >= 5
    return parts


# a recipe takes what differs between data sets from the data set, so it needs one
@pytest.mark.parametrize(("dataset", "recipe"), [(None, None), *itertools.product(DATASETS[1:], RECIPES)])
def test_every_combination_makes_a_training(dataset, recipe, scans, tmp_path):
    for method in METHODS:
        parser = read(layers(dataset, recipe, method), scans, tmp_path)
        instantiate(parser)
        assert parser.config["method_name"] == (method or "mean_teacher_copy_paste")


@pytest.mark.parametrize("dataset", DATASETS[1:])
def test_the_recipe_pretrained_means_the_same_before_and_after_the_method(dataset, scans, tmp_path):
    for method in METHODS[1:]:
        orders = [
            [*layers(dataset, "cpu", None), *sorted_paths]
            for sorted_paths in itertools.permutations(
                [CONFIGS / "recipes" / "pretrained.json", CONFIGS / "methods" / f"{method}.json"]
            )
        ]
        first, second = (read(order, scans, tmp_path) for order in orders)
        one, other = (
            {key: value for key, value in parser.config.items() if key != "_desc_"} for parser in (first, second)
        )
        assert one == other
        instantiate(first)


def test_a_recipe_that_ramps_up_sooner_is_known_to_the_collapse_alarm(scans, tmp_path):
    files = layers("hippocampus", "cpu", "mean_teacher_copy_paste", ("recipes", "pretrained"))
    parser = read(files, scans, tmp_path)
    parts = instantiate(parser)
    assert parts["method"].ramp_length == 0.1
    [alarm] = [h for h in parser.get_parsed_content("train#handlers") if type(h).__name__ == "CollapseAlarm"]
    assert alarm.after == 0.1


@pytest.mark.parametrize(("method", "watched"), [(None, 2), ("control", 0), ("supervised", 0)])
def test_the_drift_alarm_watches_the_unlabelled_scans_that_a_training_has(method, watched, scans, tmp_path):
    parser = read(layers("hippocampus", "cpu", method), scans, tmp_path)
    instantiate(parser)
    [alarm] = [h for h in parser.get_parsed_content("train#handlers") if type(h).__name__ == "DriftAlarm"]
    assert len(alarm.scans) == watched
