# SPDX-License-Identifier: Apache-2.0
"""Images mixed of two, and the loss on them."""

from .box_mix import BoxMix, MixedBatch
from .copy_paste import CopyPasteLoss

__all__ = ["BoxMix", "CopyPasteLoss", "MixedBatch"]
