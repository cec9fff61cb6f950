# SPDX-License-Identifier: Apache-2.0
"""Means over an epoch of what training steps report, summed where they are computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ignite.engine import Engine

__all__ = ["EpochMeans", "step_output"]


def step_output(engine: Engine) -> Mapping[str, object]:
    """What the trainer's last step put out, whether or not it was decollated to a list."""
    output = engine.state.output
    return output[0] if isinstance(output, list) else output


class EpochMeans:
    """Running means of scalars and short vectors, accumulated on their device and fetched in one transfer.

    Each value counts in the steps that report it. Source: ours.

    Example:
        >>> means = EpochMeans()
        >>> means.update({"loss": torch.tensor(1.0)})
        >>> means.update({"loss": torch.tensor(3.0)})
        >>> means.compute()
        {'loss': 2.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def update(self, values: Mapping[str, torch.Tensor]) -> None:
        """Add the values of one step: tensors of no or one dimension."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, torch.Tensor]:
        """The means so far, as tensors on their device."""
        return {name: value / self._counts[name] for name, value in self._sums.items()}

    def compute(self) -> dict[str, float | list[float]]:
        """The means so far as plain numbers; this waits for the device once."""
        means = self.means()
        if not means:
            return {}
        flat = torch.cat([value.reshape(-1) for value in means.values()]).tolist()
        result: dict[str, float | list[float]] = {}
        for name, value in means.items():
            own, flat = flat[: value.numel()], flat[value.numel() :]
            result[name] = own[0] if value.ndim == 0 else own
        return result

    def state_dict(self) -> dict[str, dict]:
        """The sums and counts so far."""
        # Plain texts for names: a checkpoint that holds MONAI's keys could not be read without running code.
        return {
            "sums": {str(name): value for name, value in self._sums.items()},
            "counts": {str(name): count for name, count in self._counts.items()},
        }

    def load_state_dict(self, state: Mapping[str, dict]) -> None:
        """Go on from :meth:`state_dict`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def reset(self) -> None:
        """Forget all values."""
        self._sums.clear()
        self._counts.clear()
