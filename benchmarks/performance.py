# SPDX-License-Identifier: Apache-2.0
"""Tables of docs/performance.md, from what benchmarks/step.py, inference.py and scale.py have written.

python benchmarks/performance.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pages import with_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"


def read(name: str) -> dict[str, Any]:
    """What a benchmark found last."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(header: tuple[str, ...], rows: list[tuple[object, ...]], under: str) -> str:
    """A Markdown table, and a line under it."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines) + f"\n{under}\n"


def by(size: list[int]) -> str:
    """Voxels along each axis."""
    return " x ".join(map(str, size))


def page() -> str:
    """The text of the page with its tables."""
    step, gpu, inference, scale = read("step"), read("step_gpu"), read("window_inference"), read("scale")
    paper, memory, cpu, loaded = step["paper"], step["memory"], step["cpu"], step["loader"]
    inside = step["convolutions"]["time"]
    under = f"{step['machine']}; crops of {{}}, 2 labelled and 2 unlabelled."
    on_gpu = dict.fromkeys([*gpu["paper"]["time"], *gpu["memory"]["gib"]])
    tables = {
        "step": table(
            ("step of recipe paper", "time, published scheme 1", "its convolutions alone"),
            [(name, time, inside.get(name, "")) for name, time in paper["time"].items()],
            f"{under.format(by(paper['size']))} {paper['rounds']} rounds.",
        ),
        "memory": table(
            ("step of recipe paper", "GiB at the peak, above weights and momentum"),
            list(memory["gib"].items()),
            under.format(by(memory["size"])),
        ),
        "cpu": (
            f"Recipe `cpu` (crops of {by(cpu['size'])}, 8 base channels, the default method): the whole step,\n"
            f"without its loader, takes {cpu['time']['networks']} times as long as the forward and backward pass of\n"
            f"its networks on the same images, {cpu['time']['networks and teachers']} times as long as that with the\n"
            f"forward pass of the averages that teach ({cpu['rounds']} rounds). As it trains the hippocampus (crops\n"
            f"of {by(loaded['size'])}), its loader included, these are {loaded['time']['networks']} and "
            f"{loaded['time']['networks and teachers']} ({loaded['rounds']} rounds). AdamW's update\n"
            f"of them takes {step['optimizer']['time']} of its time with `fused`.\n"
        ),
        "gpu": table(
            ("step of recipe paper", "time, published scheme 1", "GiB at the peak"),
            [(name, gpu["paper"]["time"].get(name, ""), gpu["memory"]["gib"].get(name, "")) for name in on_gpu],
            f"{gpu['machine']}; crops of {by(gpu['paper']['size'])}; {gpu['paper']['rounds']} rounds. Recipe `cpu`: "
            f"{gpu['cpu']['time']['networks']} times its networks.",
        ),
        "inference": table(
            ("configs/inference.json", "time, as shipped 1"),
            list(inference["time"].items()),
            f"{inference['machine']}; a scan of {by(inference['size'])} voxels, shipped weights; {inference['rounds']} "
            f"rounds. As shipped: {inference['scans_a_minute']} scans a minute of the core's time.",
        ),
        "scale": table(
            ("a training, losses and loader included", "seconds a step", "crops a second, 1 process 1"),
            [(name, scale["seconds_a_step"][name], ratio) for name, ratio in scale["crops_a_second"].items()],
            f"{scale['machine']}; {scale['config']}; {scale['rounds']} rounds.",
        ),
    }
    text = PAGE.read_text()
    for name, content in tables.items():
        text = with_table(text, name, content, PAGE)
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
