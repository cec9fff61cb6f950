# SPDX-License-Identifier: Apache-2.0
"""Random transforms of the training crops, where MONAI's take most of a loader's time."""
