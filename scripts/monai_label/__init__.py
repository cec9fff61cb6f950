# SPDX-License-Identifier: Apache-2.0
"""What the bundle's configs need to know of MONAI Label; nothing here imports it."""

from .stock_app import refuse_stock_app

__all__ = ["refuse_stock_app"]
