# SPDX-License-Identifier: Apache-2.0
"""``python -m scripts.data``, the former name of ``python -m scripts``; until version 0.10."""

from ..cli import main

main()
