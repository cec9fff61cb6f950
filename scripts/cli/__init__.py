# SPDX-License-Identifier: Apache-2.0
"""The command line ``dualseg``; in the bundle ``python -m scripts``."""

from .main import COMMANDS, EXIT_CODES, main

__all__ = ["COMMANDS", "EXIT_CODES", "main"]
