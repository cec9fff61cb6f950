# SPDX-License-Identifier: Apache-2.0
"""The examples of reuse run as they are printed, are short, and learn something."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch

from scripts import losses

EXAMPLES = ["plain_pytorch.py", "monai_supervised_trainer.py", "nnunet_trainer.py", "pymic_two_networks.py"]


@pytest.fixture
def example(request, monkeypatch):
    """Run an example's file by its name and return its variables."""
    folder = request.config.rootpath / "docs" / "examples"
    if not folder.is_dir():
        pytest.skip(f"the examples are not here: no folder {folder}")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(sys.modules, "dualseg", sys.modules[losses.__name__.rpartition(".")[0]])
    monkeypatch.setitem(sys.modules, "dualseg.losses", losses)
    return lambda name: runpy.run_path(str(folder / name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_at_most_sixty_lines(name, request):
    path = request.config.rootpath / "docs" / "examples" / name
    if not path.is_file():
        pytest.skip(f"the examples are not here: no file {path}")
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.slow
def test_two_networks_in_a_plain_loop(example):
    assert min(example("plain_pytorch.py")["main"](steps=25)) > 0.6


@pytest.mark.slow
def test_monai_supervised_trainer_with_a_moving_average_as_teacher(example):
    assert example("monai_supervised_trainer.py")["main"](epochs=6) > 0.6


def ball(size, centre, radius):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1)
    return np.linalg.norm(grid - centre, axis=-1) < radius


@pytest.mark.slow
def test_nnunet_trains_on_labelled_and_unlabelled_voxels(example, tmp_path, monkeypatch):
    pytest.importorskip("nnunetv2", reason="nnU-Net v2 is not installed here: pip install nnunetv2")
    import nibabel

    for variable in ("raw", "preprocessed", "results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    monkeypatch.setenv("nnUNet_compile", "False")
    dataset = tmp_path / "raw" / "Dataset501_Balls"
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for case in range(6):
        label = ball((32, 32, 32), rng.uniform(12, 20, 3), 7).astype(np.uint8)
        image = label + 0.3 * rng.standard_normal(label.shape)
        if case >= 3:
            label = np.full_like(label, 2)  # unlabelled: the ignore label everywhere
        for folder, name, volume in (("imagesTr", f"c{case}_0000", image), ("labelsTr", f"c{case}", label)):
            nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)), dataset / folder / f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ball": 1, "ignore": 2},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(description))

    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([501], num_processes=1, check_dataset_integrity=False)
    plan_experiments([501])
    preprocess([501], configurations=("3d_fullres",), num_processes=(1,))
    plans = json.loads((tmp_path / "preprocessed" / "Dataset501_Balls" / "nnUNetPlans.json").read_text())
    splits = [{"train": [f"c{i}" for i in range(1, 6)], "val": ["c0"]}]
    (tmp_path / "preprocessed" / "Dataset501_Balls" / "splits_final.json").write_text(json.dumps(splits))

    plans["continue_training"] = False
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = example("nnunet_trainer.py")["nnUNetTrainerDualseg"](
        plans, "3d_fullres", 0, description, device=torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 2, 1
    seen = []
    unlabelled_loss = None

    def spy(output, taught, unlabelled):
        seen.append(unlabelled.float().mean().item())
        return unlabelled_loss(output, taught, unlabelled)

    original = type(trainer).initialize

    def initialize(self):
        nonlocal unlabelled_loss
        original(self)
        unlabelled_loss, self.unlabelled_loss = self.unlabelled_loss, spy

    monkeypatch.setattr(type(trainer), "initialize", initialize)
    trainer.run_training()
    assert len(seen) == 4 and max(seen) > 0  # unlabelled voxels were among those of the four steps
    teacher, student = (
        torch.cat([p.flatten() for p in n.parameters()]) for n in (trainer.teacher.module, trainer.student)
    )
    assert torch.isfinite(student).all() and not torch.equal(teacher, student)


class Balls(torch.utils.data.Dataset):
    def __init__(self, number, labelled):
        rng = np.random.default_rng(number)
        masks = [ball((16, 16, 16), rng.uniform(6, 10, 3), 4).astype(np.float32) for _ in range(number)]
        self.items = []
        for mask in masks:
            item = {"image": (mask + 0.3 * rng.standard_normal(mask.shape))[None].astype(np.float32)}
            if labelled:
                item["label_prob"] = np.stack([1 - mask, mask])
            self.items.append(item)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.slow
def test_pymic_trains_two_networks_with_our_loss(example):
    """PyMIC's train_valid asks for CUDA, so its parts are called here one by one."""
    for package in ("pymic", "ml_collections", "timm", "imops", "einops"):  # PyMIC needs the others without saying so
        pytest.importorskip(
            package, reason="PyMIC is not installed here: pip install PYMIC ml_collections timm imops einops"
        )
    unet = {"dimension": 3, "in_chns": 1, "feature_chns": [4, 8, 16, 32, 64], "dropout": [0.0] * 5}
    config = {
        "dataset": {
            "tensor_type": "float",
            "task_type": "seg",
            "num_worker": 0,
            "train_batch_size": 2,
            "train_batch_size_unlab": 2,
        },
        "network": {**unet, "net_type": ["UNet", "UNet"], "class_num": 2},
        "training": {
            "gpus": [0],
            "loss_type": ["DiceLoss", "CrossEntropyLoss"],
            "loss_weight": [1.0, 1.0],
            "loss_softmax": True,
            "optimizer": "Adam",
            "learning_rate": 1e-2,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "lr_scheduler": "StepLR",
            "lr_gamma": 0.5,
            "lr_step": 100,
            "iter_max": 12,
            "iter_valid": 6,
        },
        "semi_supervised_learning": {"regularize_w": 0.1},
    }
    agent = example("pymic_two_networks.py")["DualsegCPS"](config)
    agent.set_datasets(Balls(4, labelled=True), Balls(2, labelled=True), None)
    agent.train_set_unlab = Balls(6, labelled=False)
    agent.create_dataset()
    agent.create_network()
    agent.device = torch.device("cpu")
    agent.create_optimizer(agent.get_parameters_to_update())
    agent.create_loss_calculator()
    agent.trainIter, agent.trainIter_unlab = iter(agent.train_loader), iter(agent.train_loader_unlab)
    agent.glob_it = 0
    first = agent.training()
    agent.glob_it = 6
    second = agent.training()
    assert second["loss_sup1"] < first["loss_sup1"] and second["loss_sup2"] < first["loss_sup2"]
    assert np.isfinite(second["loss_pse_sup1"]) and second["class_dice"].shape == (2,)
