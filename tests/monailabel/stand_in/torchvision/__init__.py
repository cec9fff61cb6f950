# SPDX-License-Identifier: Apache-2.0
"""What MONAI Label imports of torchvision, for tests beside a PyTorch whose torchvision cannot be had."""
