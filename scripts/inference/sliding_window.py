# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import torch
from monai.inferers import SlidingWindowInferer

__all__ = ["WindowInferer"]


class WindowInferer(SlidingWindowInferer):
    """
    MONAI's sliding window, with networks that compute in fewer digits on any device (ours).

    MONAI's evaluators do so on CUDA alone. The windows' results are added up in the scan's own numbers.

    Args:
        autocast: {``torch.bfloat16``, ``torch.float16``}; None: float32.
        args, kwargs: see ``monai.inferers.SlidingWindowInferer``.
    """

    def __init__(self, *args: Any, autocast: torch.dtype | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.autocast = autocast

    def __call__(self, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(inputs.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return super().__call__(inputs, *args, **kwargs)
