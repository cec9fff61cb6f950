# SPDX-License-Identifier: Apache-2.0
"""What nnU-Net imports of timm for its transformers, where torchvision is of another build than PyTorch.

None of it is used by the network that is trained here.
"""
