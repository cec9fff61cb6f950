# SPDX-License-Identifier: Apache-2.0
"""Two MONAI networks teach each other in a plain PyTorch loop: ``python plain_pytorch.py``."""

import torch
from dualseg.losses import CrossConsistencyEnhancementLoss, DisagreementRectificationLoss, SigmoidRamp
from monai.losses import DiceCELoss
from monai.networks.nets import SegResNet, UNet

SIZE = (32, 32, 32)


def scans(number, generator):
    """A bright ball of random place and radius in noise, and its label."""
    grid = torch.stack(torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")).float()
    centres = torch.rand(number, 3, 1, 1, 1, generator=generator) * 12 + 10
    radii = torch.rand(number, 1, 1, 1, generator=generator) * 4 + 5
    labels = ((grid - centres).norm(dim=1) < radii)[:, None].long()
    return labels + 0.7 * torch.randn(labels.shape, generator=generator), labels


def dice(logits, labels):
    prediction = logits.argmax(1, keepdim=True)
    return (2 * (prediction * labels).sum() / (prediction.sum() + labels.sum())).item()


def main(steps=60):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images, labels = scans(2, generator)
    unlabelled, _ = scans(8, generator)
    test_images, test_labels = scans(4, generator)

    a = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2))
    b = SegResNet(
        spatial_dims=3, in_channels=1, out_channels=2, init_filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1)
    )
    optimizer = torch.optim.AdamW([*a.parameters(), *b.parameters()], lr=3e-3)
    supervised = DiceCELoss(to_onehot_y=True, softmax=True)
    rectification, consistency = DisagreementRectificationLoss(), CrossConsistencyEnhancementLoss()
    ramp = SigmoidRamp(length=0.4)

    for step in range(steps):
        batch = torch.cat([images, unlabelled[torch.randperm(len(unlabelled))[:2]]])
        z_a, z_b = a(batch), b(batch)
        (a_l, a_u), (b_l, b_u) = z_a.split(2), z_b.split(2)
        loss = supervised(a_l, labels) + supervised(b_l, labels)
        loss = loss + 0.5 * (rectification(a_l, b_l, labels) + rectification(b_l, a_l, labels))
        loss = loss + ramp(step / steps) * consistency(a_u, b_u)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        return dice(a.eval()(test_images), test_labels), dice(b.eval()(test_images), test_labels)


if __name__ == "__main__":
    print("test Dice of both networks: {:.3f} {:.3f}".format(*main()))
