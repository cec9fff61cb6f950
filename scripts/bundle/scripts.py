# SPDX-License-Identifier: Apache-2.0
"""The name by which the configs of a bundle call its package, where pip has installed it as ``dualseg``.

This file lies beside the configs in the wheel only. It becomes the package itself, under the name ``scripts``.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_package = Path(__file__).resolve().parents[1]
_spec = spec_from_file_location(__name__, _package / "__init__.py", submodule_search_locations=[str(_package)])
sys.modules[__name__] = module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[__name__])
