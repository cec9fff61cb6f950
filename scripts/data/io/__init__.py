# SPDX-License-Identifier: Apache-2.0
"""Scans in files: reading and writing them."""
