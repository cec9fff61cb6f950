# SPDX-License-Identifier: Apache-2.0
"""Make a finished run's weights the shipped ones: in half precision, small enough for a repository.

    python benchmarks/ship.py runs/left_atrium_mean_teacher_copy_paste_seed0 models/model.pt

The file is a flat state dict; loading it into a network converts back to single precision.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fire
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.runs import Run

LIMIT_MB = 25


def ship(run: str, target: str) -> None:
    """Write ``run``'s model.pt to ``target`` in half precision.

    Raises:
        SystemExit: when there is no finished run, a weight does not fit half precision, or the file is over 25 MB.
    """
    source = Run(run).model
    if not source.exists():
        raise SystemExit(f"{source}: missing, so {run} is no finished run.")
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in torch.load(source, map_location="cpu", weights_only=True).items()
    }
    if too_large := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise SystemExit(f"{source}: {', '.join(too_large)} exceeds the range of half precision.")
    temporary = Path(target).with_suffix(".tmp")
    torch.save(weights, temporary)
    megabytes = temporary.stat().st_size / 1e6
    if megabytes > LIMIT_MB:
        temporary.unlink()
        raise SystemExit(
            f"{source}: {megabytes:.0f} MB in half precision, more than {LIMIT_MB}. Train narrower networks."
        )
    temporary.replace(target)
    print(f"Wrote {target}, {megabytes:.1f} MB")


if __name__ == "__main__":
    fire.Fire(ship)
