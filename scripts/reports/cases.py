# SPDX-License-Identifier: Apache-2.0
"""What every report asks of a case: its name, its file, its classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import torch

from ..annotation import CLASSES, IGNORED

__all__ = [
    "Structure",
    "annotated_classes",
    "annotated_structures",
    "case_names",
    "case_path",
    "foreground_names",
    "ignored_voxels",
    "scored_structures",
    "structure_mask",
]


class Structure(NamedTuple):
    """What is scored: a class, or a region, the union of several; ``classes`` are their indices."""

    name: str
    classes: tuple[int, ...]


def foreground_names(labels: Mapping[int | str, str] | int) -> dict[int, str]:
    """Names of the foreground classes, {class index: name}, from a datalist's `labels` or a number of classes.

    Args:
        labels: {0: "background", 1: name, ...} (keys may be strings, as in JSON), or the number of classes.

    Raises:
        ValueError: if there is no foreground class.
    """
    if isinstance(labels, int):
        labels = {c: f"class {c}" for c in range(labels)}
    names = {int(c): str(name) for c, name in sorted(labels.items(), key=lambda item: int(item[0])) if int(c) != 0}
    if not names:
        raise ValueError(f"at least one foreground class is needed, got labels={labels}.")
    return names


def scored_structures(
    labels: Mapping[int | str, str] | int, regions: Mapping[str, Sequence[int]] | None = None
) -> dict[int, Structure]:
    """What a data set is scored by: its foreground classes, by their index; where it has regions these, from 1 on.

    Args:
        labels: as for :func:`foreground_names`.
        regions: class indices of each region, by its name; none where empty or None.
    """
    if regions:
        named = enumerate(regions.items(), 1)
        return {number: Structure(name, tuple(classes)) for number, (name, classes) in named}
    return {index: Structure(name, (index,)) for index, name in foreground_names(labels).items()}


def structure_mask(segmentation: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Boolean mask [*S] of the union of classes, of a one-hot segmentation [C,*S] or an integer class map [1,*S]."""
    one_hot = segmentation.shape[0] > 1
    return reduce(torch.logical_or, (segmentation[c] > 0.5 if one_hot else segmentation[0] == c for c in classes))


def case_path(item: Mapping[str, object], image_key: str = "image") -> str:
    """Path of the file an item was loaded from, its identity across ranks.

    Raises:
        ValueError: if the image carries no file name (it was not loaded by `LoadImaged`).
    """
    meta = getattr(item.get(image_key), "meta", {})
    if "filename_or_obj" not in meta:
        raise ValueError(f'"{image_key}" carries no file name: load it with LoadImaged, as a MetaTensor.')
    return str(meta["filename_or_obj"])


def case_names(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each path: the file's stem, or its place below the common folder where stems repeat."""
    stems = {path: Path(path).name.split(".")[0] for path in paths}
    if len(set(stems.values())) == len(stems):
        return stems
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return {path: (Path(path).parent / stem).relative_to(common).as_posix() for path, stem in stems.items()}


def annotated_classes(label: torch.Tensor, foreground: Iterable[int]) -> list[int]:
    """Those of the foreground classes that a case's label shows: all, unless its metadata says otherwise."""
    classes = getattr(label, "meta", {}).get(CLASSES)
    return [c for c in foreground if classes is None or bool(classes[c])]


def annotated_structures(label: torch.Tensor, structures: Mapping[int, Structure]) -> dict[int, Structure]:
    """Those of the structures all of whose classes a case's label shows."""
    return {
        number: one for number, one in structures.items() if [*one.classes] == annotated_classes(label, one.classes)
    }


def ignored_voxels(label: torch.Tensor) -> torch.Tensor:
    """Boolean mask [*S] of the voxels that nobody has annotated, of a class map [1,*S]; none in a one-hot label."""
    return label[0] == IGNORED
