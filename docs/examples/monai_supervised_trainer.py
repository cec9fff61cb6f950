# SPDX-License-Identifier: Apache-2.0
"""MONAI's own SupervisedTrainer, one network and a moving average of it as teacher.

``prepare_batch`` appends the unlabelled images, the loss asks the teacher about them; the rest is a supervised run.
"""

import torch
from dualseg.losses import EntropyFilteredPseudoLabeler, EntropyFilteredPseudoLoss, UncertaintyWeightedCrossPseudoLoss
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from plain_pytorch import dice, scans
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader


def prepare_batch(batch, device, non_blocking, **_):
    images = torch.cat([batch["image"], batch["unlabelled"]]).to(device, non_blocking=non_blocking)
    return images, {"label": batch["label"].to(device, non_blocking=non_blocking), "images": images}


class SemiSupervisedLoss(torch.nn.Module):
    def __init__(self, teacher):
        super().__init__()
        self.teacher = [teacher]  # in a list: its parameters are not those of the loss
        self.supervised = DiceCELoss(to_onehot_y=True, softmax=True)
        self.labeler, self.pseudo = EntropyFilteredPseudoLabeler(drop_fraction=0.2), EntropyFilteredPseudoLoss()
        self.cross = UncertaintyWeightedCrossPseudoLoss()

    def forward(self, logits, target):
        n = len(target["label"])
        with torch.no_grad():
            taught = self.teacher[0](target["images"][n:])
        unlabelled = self.cross(logits[n:], taught) + self.pseudo(logits[n:], *self.labeler(taught, taught))
        return self.supervised(logits[:n], target["label"]) + 0.1 * unlabelled


def main(epochs=10):
    torch.manual_seed(0)
    (images, labels), (unlabelled, _), test = (scans(number, torch.default_generator) for number in (8, 8, 4))
    items = [{"image": images[i], "label": labels[i], "unlabelled": unlabelled[i]} for i in range(8)]
    network = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2))
    teacher = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(items, batch_size=2, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=3e-3),
        loss_function=SemiSupervisedLoss(teacher),
        prepare_batch=prepare_batch,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: teacher.update_parameters(network))
    trainer.run()
    return dice(teacher.eval()(test[0]), test[1])


if __name__ == "__main__":
    print(f"test Dice of the teacher: {main():.3f}")
