# SPDX-License-Identifier: Apache-2.0
"""What a forward and backward pass of every loss costs in time and peak memory, beside DiceCELoss in the same run.

    python benchmarks/losses.py                      # a table in Markdown, about ten minutes on one core
    python benchmarks/losses.py --step               # also the share of a training step of the default networks

Memory is what a pass allocates above its inputs at its peak, from the allocator's own record (CPU: the profiler; CUDA:
``max_memory_allocated``). Time is the fastest of the repetitions.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import losses as L  # noqa: E402
from scripts.networks import DualNetwork, ResNetVNet, VNet  # noqa: E402

SIZES = [(2, 2, 112, 112, 80), (1, 14, 96, 96, 96)]
FEATURES = 16
GIB = 2**30


def make_inputs(shape: tuple[int, ...], device: torch.device) -> dict[str, torch.Tensor]:
    """Logits a and b, features f and g of two views, labels y and a mask m; blocks of classes, not salt and pepper."""
    generator = torch.Generator().manual_seed(0)
    batch, classes, *spatial = shape
    coarse = [max(side // 8, 1) for side in spatial]

    def smooth(channels: int) -> torch.Tensor:
        noise = torch.randn(batch, channels, *coarse, generator=generator)
        maps = torch.nn.functional.interpolate(noise, spatial, mode="trilinear") * 4
        return (maps + torch.randn(batch, channels, *spatial, generator=generator)).to(device)

    a, f, g = smooth(classes), smooth(FEATURES), smooth(FEATURES)
    b = a + smooth(classes) / 2
    mask = torch.rand(batch, 1, *spatial, generator=generator).to(device) > 0.2
    labels = a.max(1, keepdim=True).indices
    return {**{k: v.requires_grad_() for k, v in (("a", a), ("b", b), ("f", f), ("g", g))}, "y": labels, "m": mask}


def passes(classes: int, t: dict[str, torch.Tensor]) -> dict[str, Callable[[], torch.Tensor]]:
    """One call per loss, named as its class, that computes the scalar to differentiate."""
    a, b, f, g, y, m = (t[k] for k in "abfgym")
    dice_ce = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)
    rectification, cross_pseudo = L.DisagreementRectificationLoss(), L.UncertaintyWeightedCrossPseudoLoss()
    filtered, cosine, consistency = (
        L.EntropyFilteredPseudoLoss(),
        L.CosineConsistencyLoss(),
        L.CrossConsistencyEnhancementLoss(),
    )
    infonce, distance = (L.PrototypeContrastiveLoss(classes, FEATURES, form=form) for form in ("infonce", "distance"))
    rps, erda, voxel = L.RectifiedPseudoSupervisionLoss(), L.ERDALoss(), L.VoxelContrastiveLoss()
    guided, affinity = L.GuidedContrastiveLoss(classes, FEATURES), L.AffinityRectifiedLoss()
    labeler = L.PrototypePseudoLabeler(classes, FEATURES)
    labeler.update(g, y)
    voting, pair, temporal = L.EnsembleVotingPseudoLabels(2), L.PairUncertaintyWeight(), L.TemporalAgreementWeight()
    for module in (infonce, distance, guided, labeler):
        module.to(a.device)
    return {
        "DiceCELoss (MONAI)": lambda: dice_ce(a, y),
        "DisagreementRectificationLoss": lambda: rectification(a, b, y),
        "UncertaintyWeightedCrossPseudoLoss": lambda: cross_pseudo(a, b),
        "EntropyFilteredPseudoLabeler": lambda: consistency.labeler(a, b)[0],
        "EntropyFilteredPseudoLoss": lambda: filtered(a, y, m),
        "CosineConsistencyLoss": lambda: cosine(a, b),
        "CrossConsistencyEnhancementLoss": lambda: consistency(a, b),
        "PrototypeContrastiveLoss (infonce)": lambda: infonce(f, a, y, m),
        "PrototypeContrastiveLoss (distance)": lambda: distance(f, a, y, m),
        "CCE + PrototypeContrastiveLoss": lambda: consistency(a, b) + infonce(f, a, y, m) + infonce(g, b, y, m),
        "RectifiedPseudoSupervisionLoss (1 view)": lambda: rps([a], b),
        "ERDALoss": lambda: erda(a, b),
        "PrototypePseudoLabeler": lambda: labeler(f).mean(),
        "VoxelContrastiveLoss": lambda: voxel(f, g, y),
        "GuidedContrastiveLoss": lambda: guided(f, g, a),
        "AffinityRectifiedLoss": lambda: affinity(a, f, b, g),
        "EnsembleVotingPseudoLabels (2 networks)": lambda: voting([a, b])[0],
        "PairUncertaintyWeight": lambda: pair(a, b, b, a),
        "TemporalAgreementWeight": lambda: temporal(a, b, a),
    }


def measure(compute: Callable[[], torch.Tensor], device: torch.device, repetitions: int) -> tuple[float, float]:
    """Seconds and peak GiB of a forward and (where there is a gradient) backward pass."""

    def once() -> None:
        value = compute()
        if value.requires_grad:
            value.backward()

    seconds = []
    for _ in range(repetitions + 1):  # the first warms up and makes the .grad of the inputs
        start = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        once()
        return min(seconds[1:]), (torch.cuda.max_memory_allocated(device) - before) / GIB
    return min(seconds[1:]), peak_on_cpu(once) / GIB


def peak_on_cpu(once: Callable[[], None]) -> int:
    """Largest number of bytes allocated at one time, above what was there, by the profiler's record of allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        once()
    changes = [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = held = 0
    for change in changes:
        held += change
        peak = max(peak, held)
    return peak


def step_seconds(shape: tuple[int, ...], device: torch.device) -> float:
    """One training step of the default networks on 2 labelled and 2 unlabelled crops, supervised loss only."""
    network = DualNetwork(ResNetVNet(out_channels=shape[1]), VNet(out_channels=shape[1])).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    dice_ce = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)
    images = torch.randn(2 * shape[0], 1, *shape[2:], device=device)
    labels = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), device=device)
    start = time.perf_counter()
    output = network(images)
    loss = sum(dice_ce(part.logits[: shape[0]], labels) + 0 * part.logits.sum() for part in output)
    loss.backward()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=range(len(SIZES)), help="which of the sizes, by index")
    parser.add_argument("--step", action="store_true", help="also time a training step of the default networks")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for shape in (SIZES[i] for i in arguments.sizes):
        inputs = make_inputs(shape, device)
        results = {}
        print(f"\n| {' x '.join(map(str, shape))} | s | times DiceCELoss | peak GiB |\n|---|---|---|---|")
        for name, compute in passes(shape[1], inputs).items():
            results[name] = measure(compute, device, arguments.repetitions)
            seconds, peak = results[name]
            ratio = seconds / next(iter(results.values()))[0]
            print(f"| {name} | {seconds:.3f} | {ratio:.2f} | {peak:.2f} |", flush=True)
        if arguments.step:
            step = step_seconds(shape, device)
            share = results["CCE + PrototypeContrastiveLoss"][0] / step
            print(f"\nA step of the default networks: {step:.1f} s; CCE and both contrastive terms: {share:.1%} of it.")


if __name__ == "__main__":
    main()
