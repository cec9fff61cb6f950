# SPDX-License-Identifier: Apache-2.0
"""A small training run in memory: random volumes, random crops, tiny networks."""

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset, ThreadDataLoader
from monai.losses import DiceCELoss
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandSpatialCropd

from scripts.engines import SemiSupervisedTrainer
from scripts.losses import SigmoidRamp
from scripts.methods import EntropyFilter, Method
from scripts.methods.terms import Contrastive, Cosine, CrossPseudo, EntropyFiltered, Supervised
from scripts.networks import DualNetwork, WithFeatures
from scripts.runs import RunState


def make_loader(count, keys, batch_size=2, first=0):
    generator = torch.Generator().manual_seed(first)
    items = [{"image": torch.randn(1, 20, 20, 20, generator=generator) + first + i} for i in range(count)]
    if "label" in keys:
        for item in items:
            item["label"] = (item["image"] > item["image"].mean()).float()
    transform = Compose(
        [
            RandSpatialCropd(keys, roi_size=(16, 16, 16), random_size=False),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
            RandGaussianNoised("image", prob=0.5),
        ]
    )
    return ThreadDataLoader(Dataset(items, transform), batch_size=batch_size, shuffle=True, num_workers=0)


def make_network():
    """Two subnets with running statistics and dropout, small enough for many tests."""

    def layers():
        norm = torch.nn.BatchNorm3d(4)
        return torch.nn.Sequential(
            torch.nn.Conv3d(1, 4, 3, 4, 1), norm, torch.nn.Dropout3d(0.5), torch.nn.ConvTranspose3d(4, 2, 4, 4)
        )

    return DualNetwork(*(WithFeatures(layers(), layer="1") for _ in range(2)))


def make_trainer(max_epochs=3, unlabeled=True, handlers=None, learning_rate=0.01, **changes):
    torch.manual_seed(0)
    network = make_network()
    terms = {
        "supervised": Supervised(DiceCELoss(to_onehot_y=True, softmax=True, batch=True, squared_pred=True)),
        "cross_pseudo": CrossPseudo(),
        "entropy_filtered": EntropyFiltered(),
        "cosine": Cosine(),
        "contrastive": Contrastive(num_classes=2),
    }
    method = Method(terms, labeler=EntropyFilter(), ramp=SigmoidRamp())
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    make_handlers = handlers or (lambda **parts: [])
    return SemiSupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=make_loader(4, ["image", "label"]),
        unlabeled_data_loader=make_loader(6, ["image"], first=10) if unlabeled else None,
        network=network,
        optimizer=optimizer,
        method=method,
        epoch_length=3,
        seed=5,
        train_handlers=make_handlers(network=network, optimizer=optimizer, method=method),
        **changes,
    )


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Killed(Exception):
    pass


def train_with_log(folder, make_log, killed_at=None):
    """Train two epochs of three steps in a run's folder, or go on there; killed right after a step.

    Args:
        folder: of the run.
        make_log: makes the handler that logs.
        killed_at: number of the step; None: not at all.
    """

    def handlers(network, optimizer, method):
        return [make_log(), RunState(str(folder), network, {"optimizer": optimizer, "method": method})]

    trainer = make_trainer(max_epochs=2, handlers=handlers)
    if killed_at is None:
        trainer.run()
        return

    @trainer.on(Events.ITERATION_COMPLETED(once=killed_at))
    def kill(engine):
        raise Killed

    with pytest.raises(Killed):
        trainer.run()
