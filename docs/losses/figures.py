# SPDX-License-Identifier: Apache-2.0
"""Draw the figures of this documentation: ``python docs/losses/figures.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))

from scripts.losses import EntropyFilteredPseudoLabeler, UncertaintyWeightedCrossPseudoLoss  # noqa: E402


def two_networks() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [1, 3, 96, 96] of two networks on a large disc and a small one, sure inside and unsure at boundaries."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    networks = []
    for shift in (0.0, 3.0):
        large = 26 - torch.hypot(y - 44, x - 38 - shift)
        small = 7 - torch.hypot(y - 70 + shift, x - 76)
        logits = torch.stack([torch.zeros_like(large), large / 3, small / 2])[None]
        noise = torch.nn.functional.interpolate(torch.randn(1, 3, 16, 16, generator=generator), 96, mode="bicubic")
        networks.append(logits + 0.8 * noise)
    return networks[0], networks[1]


def entropy_filter() -> plt.Figure:
    a, b = two_networks()
    entropies = [-(z.softmax(1) * z.log_softmax(1)).sum(1)[0] / torch.tensor(3.0).log() for z in (a, b)]
    labels, kept = EntropyFilteredPseudoLabeler(drop_fraction=0.2)(a, b)
    _, kept_of_all = EntropyFilteredPseudoLabeler(drop_fraction=0.2, per_class=False)(a, b)
    figure, axes = plt.subplots(1, 5, figsize=(13, 3), layout="constrained")
    for axis, entropy, name in zip(axes, entropies, "ab", strict=False):
        image = axis.imshow(entropy, cmap="magma", vmin=0, vmax=1)
        axis.set_title(f"entropy of network {name}")
    figure.colorbar(image, ax=axes[1], shrink=0.8)
    axes[2].imshow(labels[0, 0], cmap="viridis", vmin=0, vmax=2)
    axes[2].set_title("fused pseudo-label")
    for axis, mask, name in ((axes[3], kept, "per class"), (axes[4], kept_of_all, "over the case")):
        axis.imshow(labels[0, 0].where(mask[0, 0], torch.nan), cmap="viridis", vmin=0, vmax=2)
        share = [mask[labels == c].float().mean() for c in range(3)]
        axis.set_title(f"kept, ranks {name}\n" + " / ".join(f"{s:.0%}" for s in share))
        axis.set_facecolor("white")
    for axis in axes:
        axis.set_xticks([]), axis.set_yticks([])
    return figure


def kl_weight() -> plt.Figure:
    position = torch.linspace(-8, 8, 321)
    student = torch.stack([-(position - 1.5) * 0.75, (position - 1.5) * 0.75]).T.reshape(1, 321, 2, 1).movedim(2, 1)
    teacher = torch.stack([-(position + 1.5) * 0.75, (position + 1.5) * 0.75]).T.reshape(1, 321, 2, 1).movedim(2, 1)
    p, t = student.softmax(1)[0, 1, :, 0], teacher.softmax(1)[0, 1, :, 0]
    divergence = (teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))).sum(1).flatten()
    plain = UncertaintyWeightedCrossPseudoLoss(reduction="none", gamma=0.0)(student, teacher).flatten()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    axes[0].plot(position, p, label="student p")
    axes[0].plot(position, t, label="teacher t")
    axes[0].set_title("foreground probability across a boundary")
    axes[1].plot(position, plain / torch.exp(-divergence), "--", label="cross entropy to the sharpened teacher")
    axes[1].plot(position, torch.exp(-divergence), label="weight exp(-KL(t || p))")
    axes[1].plot(position, plain, label="weighted cross entropy")
    axes[1].set_title("where they disagree, the weight falls")
    axes[1].set_ylim(-0.15, 4.8)  # room for the legend above the curves
    for axis in axes:
        axis.set_xlabel("position (voxels)")
        axis.legend(fontsize=8, loc="upper left" if axis is axes[0] else "upper right")
    return figure


def main() -> None:
    for name, draw in (("entropy_filter", entropy_filter), ("kl_weight", kl_weight)):
        draw().savefig(FOLDER / "images" / f"{name}.png", dpi=90)


if __name__ == "__main__":
    main()
