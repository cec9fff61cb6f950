# SPDX-License-Identifier: Apache-2.0
"""MONAI transforms beside MONAI's own."""
