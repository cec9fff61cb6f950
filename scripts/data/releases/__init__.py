# SPDX-License-Identifier: Apache-2.0
"""Public data sets as their owners release them, one file each."""
