# SPDX-License-Identifier: Apache-2.0
"""The data set, recipe and method configs work together on real scans, a few steps each."""

import json
import sqlite3
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import run

SMALL = {"max_epochs": 1, "epoch_length": 2, "base_channels": 4, "tensorboard": False}


def few_scans(source: Path, folder: Path, labeled=2, unlabeled=2, test=1) -> Path:
    """A datalist of a few scans of ``source``, by absolute paths."""
    whole = json.loads((source / "datalist_8.json").read_text())

    def absolute(section, count):
        return [{key: str(source / path) for key, path in case.items()} for case in whole[section][:count]]

    cases = {
        "training": absolute("training", labeled),
        "unlabeled": absolute("unlabeled", unlabeled),
        "test": absolute("test", test),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "datalist_8.json").write_text(json.dumps({"labels": whole["labels"], "validation": [], **cases}))
    return folder


def train(bundle_root, names, runs, **options):
    files = [str(bundle_root / "configs" / f"{name}.json") for name in ("train", *names)]
    options = {**SMALL, **options}
    run(run_id="training", config_file=files, bundle_root=str(bundle_root), runs_dir=str(runs), **options)
    (folder,) = runs.glob("*_seed0")
    return folder


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        (None, {"supervised_a", "rectification_b", "copy_paste_a", "copy_paste_b"}),
        (
            "methods/paper",
            {"supervised_a", "rectification_b", "cross_pseudo", "entropy_filtered", "cosine", "contrastive_a"},
        ),
        ("methods/cross_teaching", {"supervised_a", "rectification_b", "copy_paste_a", "copy_paste_b"}),
        ("methods/control", {"supervised_a", "rectification_b", "labeled_copy_paste_a"}),
        ("methods/supervised", {"supervised_a", "supervised_b"}),
        ("methods/cps", {"supervised_a", "cross_pseudo_a", "cross_pseudo_b"}),
        ("methods/mean_teacher", {"supervised_a", "consistency_a", "consistency_b"}),
        ("methods/uamt", {"supervised_a", "consistency_a", "consistency_b"}),
        ("methods/mcf", {"supervised_a", "rectification_a", "correction_a", "correction_b"}),
        ("methods/bcp", {"copy_paste_a", "copy_paste_b"}),
        ("methods/dual_network_copy_paste", {"supervised_a", "contrastive_a", "copy_paste_a", "copy_paste_b"}),
        ("methods/mean_teacher_copy_paste", {"supervised_a", "rectification_b", "copy_paste_a", "copy_paste_b"}),
        ("methods/as_released", {"supervised_a", "rectification_a", "cross_pseudo", "divergence", "cosine"}),
        pytest.param("methods/rcps", {"supervised_a", "rectified_a", "contrast_b"}, marks=pytest.mark.slow),
        pytest.param(
            "methods/ssl_contrastive", {"supervised_a", "entropy_filtered", "contrastive_b"}, marks=pytest.mark.slow
        ),
        pytest.param("methods/dual_networks", {"cross_pseudo", "cosine", "contrastive_a"}, marks=pytest.mark.slow),
        pytest.param("methods/semsim", {"weak_to_strong_a", "within_a", "across_b"}, marks=pytest.mark.slow),
        pytest.param("methods/erda", {"supervised_a", "alignment_a", "alignment_b"}, marks=pytest.mark.slow),
        pytest.param("methods/erda_modality_agnostic", {"alignment_a", "queries_b"}, marks=pytest.mark.slow),
        pytest.param("methods/guided_contrast", {"supervised_a", "contrast_a", "contrast_b"}, marks=pytest.mark.slow),
        pytest.param("methods/pair_uncertainty", {"supervised_a", "pseudo", "pairs_a"}, marks=pytest.mark.slow),
        pytest.param(
            "methods/temporal_agreement", {"supervised_a", "agreement_a", "agreement_b"}, marks=pytest.mark.slow
        ),
        pytest.param("methods/conflict_free", {"supervised_a", "copy_paste_a", "copy_paste_b"}, marks=pytest.mark.slow),
        pytest.param("methods/fixmatch", {"supervised_a", "weak_to_strong_a"}, marks=pytest.mark.slow),
        pytest.param("methods/unimatch", {"weak_to_strong_a", "feature_perturbed_b"}, marks=pytest.mark.slow),
        pytest.param(
            "methods/crossmatch", {"strong_a", "few_dropped_a", "strong_most_dropped_b"}, marks=pytest.mark.slow
        ),
        pytest.param("methods/ad_mt", {"supervised_a", "alternate_a"}, marks=pytest.mark.slow),
        pytest.param("methods/sdcl", {"copy_paste_a"}, marks=pytest.mark.slow),
        pytest.param("methods/voting", {"supervised_a", "voted"}, marks=pytest.mark.slow),
        pytest.param("methods/contrastive_pretraining", {"contrast_a", "contrast_b"}, marks=pytest.mark.slow),
        pytest.param("methods/masked_pretraining", {"masked_a", "masked_b"}, marks=pytest.mark.slow),
    ],
)
def test_three_classes_train_with_every_method(bundle_root, shared_data, tmp_path, method, terms):
    data = few_scans(shared_data / "hippocampus", tmp_path / "data")
    names = ["datasets/hippocampus", "recipes/cpu"] + ([method] if method else [])
    folder = train(bundle_root, names, tmp_path / "runs", dataset_dir=str(data))
    (epoch,) = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert terms <= set(epoch["losses"])
    classes = json.loads((folder / "metrics.json").read_text())["networks"]["ensemble"]["classes"]
    assert set(classes) == {"anterior hippocampus", "posterior hippocampus"}


@pytest.mark.slow
def test_tensorboard_and_mlflow_get_every_loss(bundle_root, shared_data, tmp_path):
    data = few_scans(shared_data / "hippocampus", tmp_path / "data", test=0)
    names = ["datasets/hippocampus", "recipes/cpu"]
    options = {"dataset_dir": str(data), "mlflow": True, "tensorboard": True}
    folder = train(bundle_root, names, tmp_path / "runs", **options)
    with sqlite3.connect(tmp_path / "runs" / "mlruns.db") as database:
        logged = {name for (name,) in database.execute("select distinct key from metrics")}
    (events,) = (folder / "tensorboard").iterdir()
    for name in ("loss", "supervised_a", "copy_paste_a", "kept_fraction"):
        assert name in logged
        assert name.encode() in events.read_bytes()


@pytest.mark.slow
def test_the_published_recipe_takes_steps_of_plain_sgd(bundle_root, shared_data, tmp_path):
    data = few_scans(shared_data / "left_atrium", tmp_path / "data", test=0)
    small = {"patch_size": [32, 32, 16], "lr_scheduler#milestones": [1, 5000]}
    names = ["datasets/left_atrium", "recipes/paper"]
    folder = train(bundle_root, names, tmp_path / "runs", dataset_dir=str(data), **small)
    (group,) = torch.load(folder / "last.pt", weights_only=True)["state"]["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.001)  # milestones are steps, not epochs
    assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)


@pytest.mark.slow
def test_a_prediction_lies_on_the_scans_own_grid(bundle_root, shared_data, tmp_path):
    data = few_scans(shared_data / "hippocampus", tmp_path / "data", test=0)
    folder = train(bundle_root, ["datasets/hippocampus", "recipes/cpu"], tmp_path / "runs", dataset_dir=str(data))
    source = nibabel.load(next((shared_data / "hippocampus" / "images").glob("*.nii.gz")))
    scan = np.asarray(source.dataobj)[::-1, :, ::2].transpose(1, 0, 2)  # axes swapped, one reversed, slices thick
    affine = np.array([[0, -1.0, 0, 40], [1.0, 0, 0, -7], [0, 0, 2.0, 3.5], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "in" / "oblique.nii.gz")
    run(
        run_id="run",
        config_file=[str(bundle_root / "configs" / "inference.json"), str(folder / "inference.json")],
        bundle_root=str(bundle_root),
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
    )
    result = nibabel.load(tmp_path / "out" / "oblique_seg.nii.gz")
    assert result.shape == scan.shape
    np.testing.assert_allclose(result.affine, affine, atol=1e-5)
    assert result.get_data_dtype() == np.uint8
    assert set(np.unique(result.dataobj)) <= {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "configs", "dice"),
    [("left_atrium", ["inference"], 0.85), ("hippocampus", ["inference", "datasets/hippocampus"], 0.75)],
)
def test_the_shipped_models_segment_at_full_resolution(bundle_root, shared_data, tmp_path, dataset, configs, dice):
    source = shared_data / dataset
    case = json.loads((source / "datalist_8.json").read_text())["test"][0]
    run(
        run_id="run",
        config_file=[str(bundle_root / "configs" / f"{name}.json") for name in configs],
        bundle_root=str(bundle_root),
        dataset_dir=str(source / case["image"]),
        output_dir=str(tmp_path),
    )
    (result,) = tmp_path.iterdir()
    predicted, label = (np.asarray(nibabel.load(path).dataobj) for path in (result, source / case["label"]))
    assert predicted.shape == label.shape
    for structure in range(1, label.max() + 1):
        found, true = predicted == structure, label == structure
        assert 2 * (found & true).sum() / (found.sum() + true.sum()) > dice
