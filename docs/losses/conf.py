# SPDX-License-Identifier: Apache-2.0
"""Sphinx settings of the loss library's documentation.

pip install .[docs] && sphinx-build -W -b html docs/losses docs/_build/losses
sphinx-build -W -b doctest docs/losses docs/_build/doctest
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import scripts.losses

# pip installs the folder scripts/ under the name dualseg: the pages show that name, whether it is installed or not
sys.modules["dualseg"], sys.modules["dualseg.losses"] = scripts, scripts.losses

project = "dualseg.losses"
copyright = "the dualseg authors, Apache License 2.0"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "dualseg.losses"
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
add_module_names = False
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(torch|monai|collections|nn|Module|_Loss|Iterable|Sequence|NamedTuple|typing).*")]
doctest_global_setup = "import torch\nfrom dualseg.losses import *"


def _escape_shapes(app, what, name, obj, options, lines):
    """In shapes such as [B, C, *spatial] the star is no emphasis."""
    lines[:] = [re.sub(r"(?<=[ \[])\*(?=\w+\])", r"\\*", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _escape_shapes, priority=400)
