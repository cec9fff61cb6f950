# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' configs: from a raw release to a trained model, on small scans with the releases' structure."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run
from monai.inferers.utils import _get_scan_interval
from monai.transforms import Compose
from raw_scans import atrial_case, brain_case, pancreas_case

from scripts.data import prepare_release

SMALL = {
    "max_epochs": 1,
    "epoch_length": 2,
    "base_channels": 4,
    "tensorboard": False,
    "datalist_name": "datalist_2.json",
}


def parser(bundle_root, *names) -> ConfigParser:
    found = ConfigParser()
    found.read_config([str(bundle_root / "configs" / f"{name}.json") for name in names])
    return found


def raw(dataset: str, folder: Path) -> Path:
    names = []
    for number in range(1, 6):
        name = {"pancreas": f"image{number:04d}", "brats2019": f"BraTS19_{number}"}.get(dataset, f"CASE{number}")
        if dataset == "pancreas":
            pancreas_case(folder, number)
        elif dataset == "brats2019":
            brain_case(folder, name, seed=number)
        else:
            atrial_case(folder / name, shape=(24, 22, 16), seed=number)
        names.append(name)
    (folder / "train.list").write_text("\n".join(names[:4]))
    (folder / "test.list").write_text(names[4])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "benchmark"),
    [("left_atrium", False), ("pancreas", False), ("pancreas", True), ("brats2019", False)],
)
def test_raw_release_to_model_and_prediction(bundle_root, tmp_path, monkeypatch, dataset, benchmark):
    from scripts.data.releases import prepare as module

    release = module.RELEASES[dataset]
    monkeypatch.setitem(module.RELEASES, dataset, type(release)(**{**vars(release), "labeled": (2,)}))
    data = tmp_path / "data"
    prepare_release(dataset, raw(dataset, tmp_path / "raw"), data, benchmark=benchmark, progress=False)
    files = [str(bundle_root / "configs" / f"{name}.json") for name in ("train", f"datasets/{dataset}", "recipes/cpu")]
    runs = tmp_path / "runs"
    run(
        run_id="training",
        config_file=files,
        bundle_root=str(bundle_root),
        dataset_dir=str(data),
        runs_dir=str(runs),
        **SMALL,
    )
    folder = runs / f"{dataset}_mean_teacher_copy_paste_seed0"
    scores = json.loads((folder / "metrics.json").read_text())["networks"]["ensemble"]["classes"]
    assert list(scores) == [release.classes[1]]
    scan = next((data / "images").iterdir())
    files = [str(bundle_root / "configs" / "inference.json"), str(folder / "inference.json")]
    run(
        run_id="run",
        config_file=files,
        bundle_root=str(bundle_root),
        dataset_dir=str(scan),
        output_dir=str(tmp_path / "out"),
    )
    (result,) = (tmp_path / "out").iterdir()
    assert nibabel.load(result).shape == nibabel.load(scan).shape


def test_pancreas_intensities(bundle_root):
    """Hounsfield units are clipped to soft tissue; what the benchmark has normalised already hardly changes."""
    intensity = parser(bundle_root, "train", "datasets/pancreas").get_parsed_content("intensity")
    assert isinstance(intensity, Compose)
    hounsfield = torch.linspace(-1000, 1000, 4000).reshape(1, 10, 20, 20)
    found = intensity({"image": hounsfield.clone()})["image"]
    assert float(found.mean()) == pytest.approx(0, abs=1e-5) and float(found.std()) == pytest.approx(1, abs=1e-3)
    kept = (hounsfield > -125) & (hounsfield < 275)
    assert bool((found[hounsfield < -125] == found.min()).all()) and bool(
        (found[hounsfield > 275] == found.max()).all()
    )
    assert len(found[kept].unique()) == int(kept.sum())
    again = intensity({"image": found.clone()})["image"]
    assert torch.allclose(again, found, atol=1e-4)


def test_brain_intensities_are_those_of_the_brain(bundle_root):
    intensity = parser(bundle_root, "train", "datasets/brats2019").get_parsed_content("intensity")
    image = torch.zeros(1, 8, 8, 8)
    image[:, 2:6, 2:6, 2:6] = 300 + 50 * torch.randn(1, 4, 4, 4)
    found = intensity({"image": image.clone()})["image"]
    assert float(found[image > 0].mean()) == pytest.approx(0, abs=1e-4) and bool((found[image == 0] == 0).all())


@pytest.mark.parametrize(("dataset", "stride"), [("pancreas", 16), ("brats2019", 64)])
def test_the_papers_patch_spacing_and_stride(bundle_root, dataset, stride):
    config = parser(bundle_root, "train", f"datasets/{dataset}", "recipes/paper")
    assert config.get_parsed_content("flip_axes") == [0, 1]
    patch = config.get_parsed_content("patch_size")
    assert list(patch) == [96, 96, 96] and config.get_parsed_content("spacing") == [1.0, 1.0, 1.0]
    overlap = config.get_parsed_content("overlap")
    assert _get_scan_interval([200] * 3, patch, 3, [overlap] * 3) == (stride,) * 3


@pytest.mark.parametrize("name", ["left_atrium", "pancreas", "brats2019", "hippocampus", "folder"])
def test_every_data_set_has_what_the_recipes_ask_for(bundle_root, name):
    content = json.loads((bundle_root / "configs" / "datasets" / f"{name}.json").read_text())
    asked_for = {"spacing", "patch_size", "base_channels", "stem_stride", "max_epochs", "augmentation"}
    assert asked_for == set(content["cpu"])
    assert set(content["paper"]) == {"overlap", "flip_axes"}
    train = json.loads((bundle_root / "configs" / "train.json").read_text())
    assert content["cpu"]["augmentation"] in train["augmentation_levels"]
    pretrained = parser(bundle_root, "train", f"datasets/{name}", "recipes/cpu", "recipes/pretrained")
    assert pretrained.get_parsed_content("max_epochs") == 1.5 * content["cpu"]["max_epochs"]
    if name != "folder":
        assert all(np.mod(content["cpu"]["patch_size"], 16 * content["cpu"]["stem_stride"]) == 0)
        assert all(np.mod(content["patch_size"], 16) == 0)


def test_the_level_of_augmentation_reaches_the_transforms(bundle_root):
    config = parser(bundle_root, "train")
    levels = config["augmentation_levels"]
    for name in ("mild", "strong"):
        config = parser(bundle_root, "train")
        config["augmentation"] = name
        crops = [config.get_parsed_content(f"train#{name}") for name in ("labeled_crop", "unlabeled#crop")]
        others = config.get_parsed_content("train#intensity_transforms")
        for crop in crops:
            assert crop.prob == levels[name]["affine_prob"]
            assert tuple(crop.affine.rotate_range) == (levels[name]["rotation"],) * 3
            assert tuple(crop.affine.scale_range) == (levels[name]["scaling"],) * 3
        assert crops[0].affine is not crops[1].affine  # each stream draws its own
        (noise,) = [other.rand_gaussian_noise for other in others if hasattr(other, "rand_gaussian_noise")]
        assert (noise.std, noise.prob) == (levels[name]["noise"], 1.0)  # the wrapper decides how often
    assert all(levels["strong"][key] > levels["mild"][key] for key in levels["mild"] if key != "gamma")


def test_the_weak_view_is_the_same_crop_before_its_intensities_varied(bundle_root):
    config = parser(bundle_root, "train")
    unlabeled = {name: config.get_parsed_content(f"train#unlabeled#{name}") for name in ("crop", "weak_view")}
    spatial, intensity = (
        config.get_parsed_content(f"train#unlabeled#{kind}_transforms") for kind in ("spatial", "intensity")
    )
    compose = config.get_parsed_content("train#unlabeled#preprocessing")
    own = len(spatial) + len(intensity) + len(unlabeled)
    view = Compose(compose.transforms[-own:]).set_random_state(0)
    # smooth, as white noise would not resemble itself after smoothing
    image = torch.nn.functional.interpolate(torch.rand(1, 1, 8, 8, 8), size=(40, 40, 40), mode="trilinear")[0]
    differ = 0
    for _ in range(20):
        item = view({"image": image})
        assert item["image"].shape == item["weak"].shape == (1, 32, 32, 32)
        both = torch.stack([item["image"].flatten(), item["weak"].flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.5  # a flip or rotation of one alone would leave nothing of it
        differ += not torch.equal(item["image"], item["weak"])
    assert differ > 5
