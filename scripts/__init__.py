# SPDX-License-Identifier: Apache-2.0
"""Dual-network semi-supervised segmentation; installed by pip as ``dualseg``, imported by the bundle as ``scripts``."""
