# SPDX-License-Identifier: Apache-2.0
"""The two subnets of the paper, any other pair, and the modules that hold a pair."""

from .dual import DualEnsemble, DualNetwork, DualOutput, SubnetOutput
from .encoder_decoder import size_multiples
from .features import WithFeatures
from .host_buffers import HostBuffers
from .matching import match_tensors
from .moving_average import MovingAverage
from .resnet_vnet import ResNetVNet
from .vnet import VNet

__all__ = [
    "DualEnsemble",
    "DualNetwork",
    "DualOutput",
    "HostBuffers",
    "MovingAverage",
    "ResNetVNet",
    "SubnetOutput",
    "VNet",
    "WithFeatures",
    "match_tensors",
    "size_multiples",
]
