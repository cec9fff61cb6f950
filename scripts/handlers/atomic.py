# SPDX-License-Identifier: Apache-2.0
"""Files that are either complete or absent; for the handlers as for the data."""

from ..data.atomic import replace_file

__all__ = ["replace_file"]
