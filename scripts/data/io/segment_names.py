# SPDX-License-Identifier: Apache-2.0
"""Which class a segment of 3D Slicer is: its name says so, as its value is often only the order of drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import DataError
from .formats.segments import Segment, segments_of
from .label_values import VALUES, class_of

__all__ = ["classes_by_name", "common_values", "give_values", "values_by_name"]


def classes_by_name(files: Iterable[str]) -> dict[int, str] | None:
    """The classes of segmentations in which one value has several names, or one name several values (ours).

    They are the segments of the file that has most of them, in its order; None where every value has one name.

    Raises:
        DataError: when a segment is none of these, or a file does not say what its values are.
    """
    segments = {file: segments_of(file) for file in files}
    if not _disagree(segments):
        return None
    longest = max(segments, key=lambda file: len(segments[file]))
    names = [one.name for one in segments[longest]]
    every = _names_in(segments)
    for file, some in segments.items():
        if not some:
            raise DataError(
                f"{file}: does not say what its values are, and the segmentations beside it have different values for "
                f"one structure (see {longest}). Save it from 3D Slicer as a segmentation, too."
            )
        if strangers := [one for one in some if _key(one.name) not in map(_key, names)]:
            raise DataError(
                f"{file}: value {strangers[0].value} is {strangers[0].name}, but {', '.join(names)} are all of the "
                f"segments in {longest}. Rename it in 3D Slicer, or name the classes: --names "
                f"{','.join(['background', *every])}"
            )
    return dict(enumerate(["background", *names]))


def common_values(files: Iterable[str]) -> tuple[dict[int, str], dict[str, list[float]]]:
    """Names by values for segmentations that are to be read together (ours).

    Returns:
        Names by values; where the files disagree, 1, 2, ... for every name in them, and as the second what each value
        is in a file that has others, as :func:`values_by_name` gives it.
    """
    segments = {file: found for file in files if (found := segments_of(file))}
    if not _disagree(segments):
        return {one.value: one.name for some in segments.values() for one in some}, {}
    labels = dict(enumerate(["background", *_names_in(segments)]))
    return {number: name for number, name in labels.items() if number}, values_by_name(segments, labels, None)


def _disagree(segments: Mapping[str, Sequence[Segment]]) -> bool:
    """Whether a value has several names, or a name several values."""
    pairs = {(_key(one.name), one.value) for some in segments.values() for one in some}
    return not len({name for name, _ in pairs}) == len({value for _, value in pairs}) == len(pairs)


def _names_in(segments: Mapping[str, Sequence[Segment]]) -> list[str]:
    """Every name once, as it is written first."""
    found: dict[str, str] = {}
    for one in (one for some in segments.values() for one in some):
        found.setdefault(_key(one.name), one.name)
    return list(found.values())


def values_by_name(
    files: Iterable[str], labels: Mapping[int, str], values: Sequence[float] | None, ignore: int | None = None
) -> dict[str, list[float]]:
    """The value of each class in the segmentations whose segments' names say other than their values (ours).

    A segment is the class of its name. One whose name is no class is that of its value, as long as no other file has a
    segment of that class's name. A class that a file lacks gets a value that it does not have.

    Args:
        files: of labels.
        labels: names by class numbers.
        values: of the classes in all files; None: the class numbers.
        ignore: value of the voxels that nobody has annotated.

    Raises:
        DataError: when a segment's name is no class and its value is another one's or ignored, or two are one class.
    """
    numbers = {_key(name): number for number, name in labels.items()}
    segments = {file: found for file in files if (found := segments_of(file))}
    meant = {numbers[key] for some in segments.values() for one in some if (key := _key(one.name)) in numbers}
    own = {}
    for file, some in segments.items():
        classes = [_class_of(file, one, numbers, values, meant, labels) for one in some]
        if all(number == class_of(one.value, values) for number, one in zip(classes, some, strict=True)):
            continue
        by_class = {number: one.value for number, one in zip(classes, some, strict=True) if number is not None}
        if len(by_class) < len(classes) - classes.count(None):
            twice = next(labels[number] for number in classes if number is not None and classes.count(number) > 1)
            raise DataError(f"{file}: two segments are {twice!r}. Merge them in 3D Slicer, or rename one.")
        if ignore in by_class.values():
            raise DataError(f"{file}: has a segment of the ignored value {ignore}. Give it another value in 3D Slicer.")
        unused = max(*by_class.values(), 0 if ignore is None else ignore) + 1
        own[file] = [by_class.get(number, 0 if number == 0 else unused + number) for number in labels]
    return own


def give_values(
    labelled: Sequence[dict[str, Any]], labels: Mapping[int, str], values: Sequence[float] | None, ignore: int | None
) -> None:
    """Put the values of the classes in a case's label beside it, since transforms see one item at a time (ours).

    Args:
        labelled: cases of a datalist; those whose label holds no class numbers get the key ``values``.
        labels: names by class numbers.
        values: of the classes in all files; None: the class numbers.
        ignore: value of the voxels that nobody has annotated.

    Raises:
        DataError: as :func:`values_by_name` does.
    """
    own = values_by_name([case["label"] for case in labelled], labels, values, ignore)
    for case in labelled:
        if (known := own.get(case["label"], values)) is not None:
            case[VALUES] = known


def _class_of(
    file: str,
    segment: Segment,
    numbers: Mapping[str, int],
    values: Sequence[float] | None,
    meant: set[int],
    labels: Mapping[int, str],
) -> int | None:
    if (number := numbers.get(_key(segment.name))) is not None:
        return number
    number = class_of(segment.value, values)
    if number in meant:
        raise DataError(
            f"{file}: value {segment.value} is {segment.name}, but {labels[number]} in other files. Rename it in 3D "
            "Slicer, or add a class of its name to the datalist."
        )
    return number


def _key(name: str) -> str:
    """A name without what people write differently: capitals, underscores, blanks."""
    return " ".join(name.replace("_", " ").casefold().split())
