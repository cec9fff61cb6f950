# SPDX-License-Identifier: Apache-2.0
"""What the bundle's configs need to work inside MONAI Label; nothing here imports it."""

from .spacing import LoneSpacingd
from .stock_app import inference_setting, install_weights, studies_dataset

__all__ = ["LoneSpacingd", "inference_setting", "install_weights", "studies_dataset"]
