# SPDX-License-Identifier: Apache-2.0
"""A trained model for programs without this package: TorchScript, ONNX, and a folder for the Hugging Face Hub."""

from .description import describe_model
from .files import FORMATS, write_exports
from .hub import HUB_CONFIG, HUB_WEIGHTS, is_hub_folder, read_hub, write_hub
from .mean_of_subnets import MeanOfSubnets

__all__ = [
    "FORMATS",
    "HUB_CONFIG",
    "HUB_WEIGHTS",
    "MeanOfSubnets",
    "describe_model",
    "is_hub_folder",
    "read_hub",
    "write_exports",
    "write_hub",
]
