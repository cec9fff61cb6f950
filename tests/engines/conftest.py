# SPDX-License-Identifier: Apache-2.0
"""A small training run in memory: random volumes, random crops, tiny networks."""

import pytest
import torch
from monai.data import Dataset, ThreadDataLoader
from monai.losses import DiceCELoss
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandSpatialCropd

from scripts.engines import SemiSupervisedTrainer
from scripts.losses import CrossConsistencyEnhancementLoss, PrototypeContrastiveLoss
from scripts.methods import DualNetworkMethod
from scripts.networks import DualNetwork, VNet


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


def make_trainer(max_epochs=3, unlabeled=True, handlers=None, learning_rate=0.01, **changes):
    torch.manual_seed(0)
    network = DualNetwork(*(VNet(base_channels=4, norm="batch", dropout=0.5) for _ in range(2)))
    method = DualNetworkMethod(
        supervised=DiceCELoss(to_onehot_y=True, softmax=True, batch=True, squared_pred=True),
        consistency=CrossConsistencyEnhancementLoss(),
        contrastive=PrototypeContrastiveLoss(num_classes=2, feature_channels=4),
    )
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
