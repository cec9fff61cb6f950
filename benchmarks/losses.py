# SPDX-License-Identifier: Apache-2.0
"""What a forward and backward pass of every loss costs in time and peak memory, beside DiceCELoss in the same run.

    python benchmarks/losses.py                      # two tables in Markdown, about four minutes on one core
    python benchmarks/losses.py --sizes --step       # the share of a training step of the shipped configs instead

Memory is what a pass allocates above its inputs at its peak, from the allocator's own record (CPU: the profiler; CUDA:
``max_memory_allocated``). Time is the fastest of the repetitions; with one CPU thread it is the time of that thread, so
other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import losses as L  # noqa: E402
from scripts.methods import Method  # noqa: E402

SIZES = [(2, 2, 112, 112, 80), (1, 14, 96, 96, 96)]
# Crops of a training step. The default networks, with their stride-2 stem, take multiples of 32: 4 % more voxels.
METHOD = ["configs/train.json", "configs/methods/paper.json"]
STEPS = {
    "configs/train.json": (METHOD, (128, 128, 64)),
    "configs/recipes/paper.json": ([*METHOD, "configs/recipes/paper.json"], (112, 112, 80)),
}
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
    leaves = {name: tensor.requires_grad_() for name, tensor in (("a", a), ("b", b), ("f", f), ("g", g))}
    return {**leaves, "y": labels, "m": mask}


def unlabelled_terms(
    consistency: L.CrossConsistencyEnhancementLoss,
    contrastive: tuple[L.PrototypeContrastiveLoss, L.PrototypeContrastiveLoss],
    t: dict[str, torch.Tensor],
) -> torch.Tensor:
    """CCE and both networks' contrastive terms on shared pseudo-labels, as a training step computes them."""
    labels, mask, terms = consistency.labels_and_terms(t["a"], t["b"])
    contrast = contrastive[0](t["f"], t["a"], labels, mask) + contrastive[1](t["g"], t["b"], labels, mask)
    return sum(terms.values()) + contrast


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
    infonce, other, distance = (
        L.PrototypeContrastiveLoss(classes, FEATURES, form=form) for form in ("infonce", "infonce", "distance")
    )
    rps, erda, voxel = L.RectifiedPseudoSupervisionLoss(), L.ERDALoss(), L.VoxelContrastiveLoss()
    guided, affinity = L.GuidedContrastiveLoss(classes, FEATURES), L.AffinityRectifiedLoss()
    labeler = L.PrototypePseudoLabeler(classes, FEATURES)
    labeler.update(g, y)
    voting, pair, temporal = L.EnsembleVotingPseudoLabels(2), L.PairUncertaintyWeight(), L.TemporalAgreementWeight()
    for module in (infonce, other, distance, guided, labeler):
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
        "CCE and both contrastive terms": lambda: unlabelled_terms(consistency, (infonce, other), t),
        "RectifiedPseudoSupervisionLoss (1 view)": lambda: rps([a], b),
        "ERDALoss": lambda: erda(a, b),
        "PrototypePseudoLabeler": lambda: labeler.logits(f).mean(),
        "VoxelContrastiveLoss": lambda: voxel(f, g, y),
        "GuidedContrastiveLoss": lambda: guided(f, g, a),
        "AffinityRectifiedLoss": lambda: affinity(a, f, b, g),
        "EnsembleVotingPseudoLabels (2 networks)": lambda: voting([a, b])[0],
        "PairUncertaintyWeight": lambda: pair(a, b, b, a),
        "TemporalAgreementWeight": lambda: temporal(a, b, a),
    }


def once(compute: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> None:
    """A forward and, where there is a gradient, a backward pass."""
    value = compute()
    if value.requires_grad:
        torch.autograd.grad(value, leaves, allow_unused=True)


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """Time of one call: of this process's threads when there is one on a CPU, else of the clock on the wall."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def peak(run: Callable[[], None], device: torch.device) -> float:
    """GiB that a call allocates at its peak above what was there."""
    if device.type == "cpu":
        return peak_on_cpu(run) / GIB
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return (torch.cuda.max_memory_allocated(device) - before) / GIB


def peak_on_cpu(run: Callable[[], None]) -> int:
    """Largest number of bytes allocated at one time, above what was there, by the profiler's record of allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    changes = [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes, initial=0))


def share_of_a_step(
    files: list[str], size: tuple[int, ...], device: torch.device, repetitions: int
) -> tuple[float, float, float]:
    """What the terms on unlabelled images cost beside a whole training step of a config, both measured by turns.

    The step is that of the config: networks, method with all its terms, backward pass, optimizer; 2 labelled and 2
    unlabelled crops. The terms are those of its method, on logits and features as the networks give them.

    Returns:
        Seconds of the step, seconds of the terms, and GiB that the terms allocate at their peak.
    """
    parser = ConfigParser()
    parser.read_config([str(ROOT / file) for file in files])
    parser.update({"bundle_root": str(ROOT), "device": device, "warm_up": 0})
    network, method = parser.get_parsed_content("network").train(), parser.get_parsed_content("method").to(device)
    optimizer = parser.get_parsed_content("optimizer")
    classes = parser.get_parsed_content("num_classes")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, parser["in_channels"], *size, generator=generator).to(device)
    labels = torch.randint(0, classes, (2, 1, *size), generator=generator).to(device)
    batches = {"image": images[:2], "label": labels}, {"image": images[2:]}

    def step() -> None:
        optimizer.zero_grad()
        sum(method(network, *batches, 1.0).values()).backward()
        optimizer.step()

    unlabelled = Method(
        {name: term for name, term in method.terms.items() if term.needs_unlabeled}, method.labeler, method.teacher
    )
    with torch.no_grad():
        output = network(images[2:])
    leaves = [tensor.requires_grad_() for subnet in output for tensor in subnet]

    def terms() -> None:
        once(lambda: sum(unlabelled(lambda _: output, *batches, 1.0).values()), leaves)

    step(), terms()  # warm up
    pairs = [(seconds(step, device), seconds(terms, device)) for _ in range(repetitions)]
    return *(min(column) for column in zip(*pairs, strict=True)), peak(terms, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=range(len(SIZES)), help="which of the sizes, by index")
    parser.add_argument("--step", action="store_true", help="also the share of a training step of the configs")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for shape in (SIZES[i] for i in arguments.sizes):
        t = make_inputs(shape, device)
        leaves = [t[name] for name in "abfg"]
        reference = None
        print(f"\n| {' x '.join(map(str, shape))} | s | times DiceCELoss | peak GiB |\n|---|---|---|---|")
        for name, compute in passes(shape[1], t).items():
            run = partial(once, compute, leaves)
            run()  # warm up
            fastest = min(seconds(run, device) for _ in range(arguments.repetitions))
            reference = reference or fastest
            print(f"| {name} | {fastest:.3f} | {fastest / reference:.2f} | {peak(run, device):.2f} |", flush=True)
    if arguments.step:
        print("\n| networks | crops | step, s | terms on unlabelled crops, s | share | peak GiB |")
        print("|---|---|---|---|---|---|")
        for name, (files, size) in STEPS.items():
            step, terms, memory = share_of_a_step(files, size, device, arguments.repetitions)
            crops = "2 + 2 x " + " x ".join(map(str, size))
            print(f"| {name} | {crops} | {step:.2f} | {terms:.2f} | {terms / step:.1%} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
