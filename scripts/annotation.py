# SPDX-License-Identifier: Apache-2.0
"""How labels say what was not annotated: a value for voxels, a list for classes. Data makes them, methods read them."""

__all__ = ["CLASSES", "IGNORED"]

IGNORED = -1
"""Value of a voxel in a label that nobody has annotated; never the number of a class."""

CLASSES = "classes"
"""Key of a labelled item, and of its label's metadata: which classes were annotated, bool [C], background included.
Where a batch has it, its labels may hold :data:`IGNORED`; where it has not, every voxel is annotated."""
