# SPDX-License-Identifier: Apache-2.0
"""Call every loss with random finite numbers of any size and layout, many times: is all that comes out finite?

``python benchmarks/fuzz_losses.py --calls 100000``; the tests do the same for some seconds. The result is kept in
results/reliability.json.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import fire
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from losses.test_fuzz import call, inputs_of
from losses.test_reuse import MODULES

from benchmarks.reliability import keep_row


def main(calls: int = 100_000, first: int = 1_000_000) -> None:
    """Fill the table of docs/runs.md.

    Args:
        calls: how many, over all classes; each is one forward pass and, where there is a gradient, one backward pass.
        first: the first seed.
    """
    torch.set_num_threads(1)
    begin, done, wrong, seed = time.monotonic(), 0, [], first
    while done < calls:
        for name, (make, names) in MODULES.items():
            classes, inputs = inputs_of(seed)
            module = make(classes)
            for _ in range(2):
                problem = call(module, names, inputs)
                done += 1
                if problem:
                    wrong.append((name, seed, problem))
                    print(*wrong[-1], flush=True)
        seed += 1
    row = {"classes and forms": len(MODULES), "calls": done, "not finite": len(wrong)}
    row |= {"minutes": round((time.monotonic() - begin) / 60, 1), "torch": torch.__version__}
    print(row)
    keep_row("fuzz", row, ("torch",))


if __name__ == "__main__":
    fire.Fire(main)
