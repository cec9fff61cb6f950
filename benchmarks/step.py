# SPDX-License-Identifier: Apache-2.0
"""What a training step costs beside the published scheme's, and what the keys of the configs do to its time and memory.

    python benchmarks/step.py --parts paper --rounds 1      # recipe paper's crops, 112 x 112 x 80: minutes a round
    python benchmarks/step.py --parts memory --size 48 32 32
    python benchmarks/step.py --parts loader --dataset_dir DATA/hippocampus     # with the loader of recipe cpu

The published scheme is written here from its description: a V-Net and a ResNet-34 V-Net, an optimizer for each, and for
each a backward pass of its own losses (supervised, and cross pseudo supervision); the networks are this bundle's, in
float32. Every round measures all variants, one after the other; a ratio is the median over rounds of the ratio within
one. With one CPU thread, time is that of the thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from losses import peak, seconds
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from monai.utils import convert_to_tensor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT))

from scripts.data import TwoStreams  # noqa: E402
from scripts.engines.acceleration import choose_autocast  # noqa: E402
from scripts.hardware import device_name  # noqa: E402
from scripts.networks import DualNetwork, ResNetVNet, VNet  # noqa: E402

VARIANTS = {
    "float32": {"precision": "float32", "memory_format": "contiguous"},
    "float32, channels last": {"precision": "float32", "memory_format": "channels_last"},
    "bfloat16": {"precision": "bfloat16", "memory_format": "contiguous"},
    "bfloat16, channels last": {"precision": "bfloat16", "memory_format": "channels_last"},
}
PAPER = ("configs/train.json", "configs/methods/paper.json", "configs/recipes/paper.json")
CPU = {"base_channels": 8, "stem_stride": 2}
CPU_SIZE = (64, 64, 32)
WITH_LOADER = ("configs/train.json", "configs/datasets/hippocampus.json", "configs/recipes/cpu.json")
PARTS = ("paper", "convolutions", "memory", "cpu", "optimizer")
"""Without a data set; of one there is the part "loader", too."""

Step = Callable[[], None]


def make_batches(size: tuple[int, ...], device: torch.device) -> tuple[dict, dict]:
    """Two labelled and two unlabelled crops."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, *size, generator=generator).to(device)
    labels = torch.randint(0, 2, (2, 1, *size), generator=generator).to(device)
    return {"image": images[:2], "label": labels}, {"image": images[2:], "weak": images[2:]}


def published_step(batches: tuple[dict, dict], device: torch.device) -> Step:
    """Two networks, two optimizers, two backward passes."""
    networks = [subnet(base_channels=16).to(device).train() for subnet in (ResNetVNet, VNet)]
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4) for one in networks]
    supervised = DiceCELoss(to_onehot_y=True, softmax=True)
    labeled, unlabeled = batches
    images = torch.cat([labeled["image"], unlabeled["image"]])

    def step() -> None:
        logits = [network(images) for network in networks]
        taught = [one[2:].detach().argmax(1, keepdim=True) for one in reversed(logits)]
        for own, pseudo, optimizer in zip(logits, taught, optimizers, strict=True):
            optimizer.zero_grad()
            (supervised(own[:2], labeled["label"]) + supervised(own[2:], pseudo)).backward()
            optimizer.step()

    return step


def our_step(
    files: tuple[str, ...], size: tuple[int, ...], batches: tuple[dict, dict], device: torch.device, **changes: object
) -> dict[str, Step]:
    """Of a config, on the same crops in every step; see :func:`steps_of`."""
    given = {"num_classes": 2, "flip_axes": [], "patch_size": list(size), "overlap": 0.5, **changes}
    return steps_of(read(files, device, **given), device, lambda: batches)


def with_loader(dataset_dir: str, device: torch.device) -> tuple[dict[str, Step], tuple[int, ...]]:
    """Of recipe cpu of the hippocampus, each step with crops of its own from the config's loader; their size."""
    parser = read(WITH_LOADER, device, dataset_dir=dataset_dir, cache="memory")

    def endless() -> Iterator[tuple[dict, dict]]:
        loaders = [parser.get_parsed_content(name) for name in ("train#dataloader", "train#unlabeled#dataloader")]
        while True:
            for batches in TwoStreams(*loaders, epoch_length=1000):
                plain = convert_to_tensor(batches, track_meta=False)  # as the trainer does
                yield plain["labeled"], plain["unlabeled"]

    stream = endless()
    return steps_of(parser, device, lambda: next(stream)), tuple(parser.get_parsed_content("patch_size"))


def read(files: tuple[str, ...], device: torch.device, **changes: object) -> ConfigParser:
    """Configs for a step past the warm-up."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / file) for file in files])
    parser.update({"bundle_root": str(ROOT), "device": device, "warm_up": 0, **changes})
    return parser


def steps_of(parser: ConfigParser, device: torch.device, batches: Callable[[], tuple[dict, dict]]) -> dict[str, Step]:
    """Past the warm-up: the whole step, its networks' forward and backward pass, and these with the forward pass of the
    averages that teach."""
    network, optimizer = parser.get_parsed_content("network").train(), parser.get_parsed_content("optimizer")
    method, dtype = parser.get_parsed_content("method").to(device), parser.get_parsed_content("autocast")
    average = parser.get_parsed_content("average")
    seen: list[torch.Tensor] = []
    taught: list[torch.Tensor] = []
    if average is not None:
        average.module.register_forward_pre_hook(lambda module, images: taught.__setitem__(slice(None), images))

    def noted(images: torch.Tensor) -> object:
        seen[:] = [images]
        return network(images)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            total = torch.stack([loss.float() for loss in method(noted, *batches(), 1.0).values()]).sum()
        total.backward()
        if parser.get_parsed_content("max_grad_norm"):
            torch.nn.utils.clip_grad_norm_(network.parameters(), parser.get_parsed_content("max_grad_norm"))
        optimizer.step()
        if average is not None:
            average.update_parameters(network)

    def alone() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            output = network(seen[0])
        sum(subnet.logits.float().mean() for subnet in output).backward()

    def with_teachers() -> None:
        alone()
        if taught:
            with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                average.module(*taught)

    return {"whole": step, "networks": alone, "networks and teachers": with_teachers}


def update(fused: bool, device: torch.device) -> Step:
    """AdamW's update of the networks of recipe cpu."""
    network = DualNetwork(ResNetVNet(base_channels=8, norm="group"), VNet(base_channels=8, norm="group")).to(device)
    for weights in network.parameters():
        weights.grad = torch.randn_like(weights)
    return torch.optim.AdamW(network.parameters(), fused=fused).step


def ratios(steps: dict[str, Step], reference: str, rounds: int, device: torch.device) -> dict[str, float]:
    """Median over rounds of each step's time as a fraction of the reference's in the same round."""
    for step in steps.values():
        step()  # warm up
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        times = {name: seconds(step, device) for name, step in steps.items()}
        for name, time in times.items():
            found[name].append(time / times[reference])
        print({name: f"{time:.2f} s" for name, time in times.items()}, flush=True)
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def convolutions(steps: dict[str, Step], reference: str) -> dict[str, float]:
    """Time of one step in its convolutions, forward and backward, as a fraction of the reference's whole step."""
    whole, inside = {}, {}
    for name, step in steps.items():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
            step()
        kinds = record.key_averages()
        whole[name] = sum(kind.self_cpu_time_total for kind in kinds)
        inside[name] = sum(kind.self_cpu_time_total for kind in kinds if "conv" in kind.key)
        print(f"{name}: {whole[name] / 1e6:.1f} s, {inside[name] / 1e6:.1f} s in convolutions", flush=True)
    return {name: round(time / whole[reference], 3) for name, time in inside.items()}


def is_possible(changes: dict, size: tuple[int, ...], device: torch.device) -> bool:
    """Whether auto would take bfloat16 here: where the processor has it."""
    with torch.device("meta"):
        pair = DualNetwork(ResNetVNet(), VNet())
    return changes["precision"] != "bfloat16" or choose_autocast("auto", device, pair, size) is torch.bfloat16


def peaks(variants: dict[str, dict], size: tuple[int, ...], device: torch.device) -> dict[str, float]:
    """GiB at the peak of a step above what was there before, with and without checkpointing."""
    found = {}
    for name in ("float32", list(variants)[-1]):
        for checkpointing in (False, True):
            step = our_step(
                PAPER, size, make_batches(size, device), device, **variants[name], checkpointing=checkpointing
            )["whole"]
            step()
            found[name + (", checkpointing" if checkpointing else "")] = round(peak(step, device), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs=3, default=(112, 112, 80))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--parts", nargs="+", choices=(*PARTS, "loader"), default=PARTS, help="what to measure; the rest is kept"
    )
    parser.add_argument("--dataset_dir", help="folder of the hippocampus, for the loader")
    arguments = parser.parse_args()
    if "loader" in arguments.parts and (arguments.dataset_dir is None or arguments.device != "cpu"):
        parser.error("--parts loader: give --dataset_dir, the folder of the hippocampus, and --device cpu")
    device, size, rounds = torch.device(arguments.device), tuple(arguments.size), arguments.rounds
    result = RESULTS / ("step_gpu.json" if device.type == "cuda" else "step.json")
    machine = f"{device_name()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    variants = {name: changes for name, changes in VARIANTS.items() if is_possible(changes, size, device)}
    for part in arguments.parts:
        if part == "paper":
            batches = make_batches(size, device)
            steps = {"published scheme": published_step(batches, device)}
            steps |= {
                name: our_step(PAPER, size, batches, device, **changes)["whole"] for name, changes in variants.items()
            }
            found = {"size": size, "rounds": rounds, "time": ratios(steps, "published scheme", rounds, device)}
        elif part == "convolutions":
            batches, kept = make_batches(size, device), [name for name in variants if "channels last" in name]
            steps = {"published scheme": published_step(batches, device)}
            steps |= {name: our_step(PAPER, size, batches, device, **variants[name])["whole"] for name in kept}
            found = {"size": size, "time": convolutions(steps, "published scheme")}
        elif part == "memory":
            found = {"size": size, "gib": peaks(variants, size, device)}
        elif part == "optimizer":
            steps = {name: update(fused, device) for name, fused in (("one by one", False), ("fused", True))}
            found = {"rounds": 3 * rounds, "time": ratios(steps, "one by one", 3 * rounds, device)["fused"]}
        else:
            if part == "loader":
                steps, crop = with_loader(arguments.dataset_dir, device)
            else:
                crop = CPU_SIZE
                steps = our_step(("configs/train.json",), crop, make_batches(crop, device), device, **CPU)
            times = {name: ratios(steps, name, 3 * rounds, device)["whole"] for name in list(steps)[1:]}
            found = {"size": crop, "rounds": 3 * rounds, "time": times}
        print(part, found, flush=True)
        kept = json.loads(result.read_text()) if result.exists() else {}
        result.write_text(json.dumps({**kept, "machine": machine, part: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
