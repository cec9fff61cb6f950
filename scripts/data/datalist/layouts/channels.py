# SPDX-License-Identifier: Apache-2.0
"""Which files are the channels of one scan, by the ends of their names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ....errors import DataError
from ...io.formats.names import case_name, scan_stem

__all__ = ["KNOWN_CHANNELS", "join_channels", "known_channels", "name_scans"]

KNOWN_CHANNELS = (("flair", "t1", "t1ce", "t2"), ("t2f", "t1n", "t1c", "t2w"))
"""Endings of the four files of a case of BraTS, up to 2021 and since."""

_NUMBER = re.compile(r"^(.+)_(\d{4})$")


def join_channels(
    files: Sequence[Path],
    endings: Sequence[str] | None = None,
    labels: Sequence[str] = (),
    name: str = "",
    channels: int | None = None,
) -> tuple[dict[str, str | list[str]], list[str] | None, list[Path]]:
    """Scans by their names, each one file or a list of its channels.

    Channels are told by nnU-Net's numbers (``CASE_0000``, ``CASE_0001``) or BraTS' endings (``CASE_flair``, ...).

    Args:
        files: image files.
        endings: of the files that are a scan's channels, in their order, e.g. ``T1w``, ``FLAIR``; others are left out.
        labels: names of the labelled cases: ``scan_0001`` is no channel if there is a label of that name.
        name: of the case, where the files are all of one.
        channels: of every scan, where that is known.

    Returns:
        The scans; what the channels are, where their names say it; the files left out.

    Raises:
        DataError: when a scan lacks a channel, or two files are one.
    """
    if endings:
        scans, left_out = _by_endings(files, list(endings), name)
        if not scans:
            raise DataError(
                f"--channels {','.join(endings)}: no file's name ends so, e.g. {files[0].name}. Correct it."
            )
        return scans, list(endings) if len(endings) > 1 else None, left_out
    if known := known_channels(files):
        return _by_endings(files, known, name)[0], known, []
    return join_numbered(files, labels, channels), None, []


def known_channels(files: Sequence[Path]) -> list[str] | None:
    """The endings of BraTS, where all files have one of them and none is missing."""
    for known in KNOWN_CHANNELS:
        if {_ending(file, known) for file in files} == set(known):
            return list(known)
    return None


def _ending(file: Path, endings: Sequence[str]) -> str | None:
    stem = scan_stem(file).lower()
    return next(
        (end for end in endings if stem == end.lower() or re.search(rf"[-_. ]{re.escape(end.lower())}$", stem)), None
    )


def _by_endings(files: Sequence[Path], endings: list[str], name: str) -> tuple[dict[str, str | list[str]], list[Path]]:
    found: dict[str, dict[str, Path]] = {}
    left_out = []
    for file in files:
        end = _ending(file, endings)
        if end is None:
            left_out.append(file)
            continue
        case = name or unicodedata.normalize("NFC", scan_stem(file)[: -len(end) - 1])
        other = found.setdefault(case, {}).setdefault(end, file)
        if other != file:
            raise DataError(f"{file}: a second {end} of case {case}, beside {other.name}. Keep one of them.")
    for case, channels in found.items():
        if missing := [end for end in endings if end not in channels]:
            there = next(iter(channels.values()))
            raise DataError(f"{there}: case {case} has no {', '.join(missing)}. Copy it there, or take the case away.")
    scans = {case: [str(channels[end]) for end in endings] for case, channels in found.items()}
    return {case: paths if len(paths) > 1 else paths[0] for case, paths in scans.items()}, left_out


def join_numbered(
    files: Sequence[Path], labels: Sequence[str] = (), channels: int | None = None
) -> dict[str, str | list[str]]:
    """Scans of which ``CASE_0000``, ``CASE_0001``, ... are the channels; four digits that number cases are none.

    Args:
        files: image files.
        labels: names of the labelled cases: where ``scan_0001`` has a label, its number is no channel's.
        channels: of every scan, where that is known.

    Raises:
        DataError: when scans have different numbers of channels.
    """
    groups: dict[str, dict[int, Path]] = {}
    for file in files:
        if match := _NUMBER.match(unicodedata.normalize("NFC", scan_stem(file))):
            groups.setdefault(match[1], {})[int(match[2])] = file
    groups = {case: numbers for case, numbers in groups.items() if 0 in numbers and len(numbers) > 1}
    if not groups:
        return name_scans(files)
    numbered = {f"{case}_{number:04d}" for case, numbers in groups.items() for number in numbers} & set(labels)
    lone = len(groups) == 1 and not groups.keys() & set(labels) and channels is None
    if channels == 1 or numbered or lone:  # a series of cases
        return {unicodedata.normalize("NFC", scan_stem(file)): str(file) for file in files}
    most = channels or max(len(numbers) for numbers in groups.values())
    joined = {file for numbers in groups.values() for file in numbers.values()}
    for case, numbers in groups.items():
        if sorted(numbers) != list(range(most)):
            raise DataError(
                f"{numbers[0]}: case {case} has the channels {sorted(numbers)}, others have {most}. Copy what is "
                "missing there, or take the case away."
            )
    alone = name_scans([file for file in files if file not in joined])
    if stray := [file for file in alone.values() if _NUMBER.match(scan_stem(file))]:
        raise DataError(
            f"{stray[0]}: one channel, where other cases have {most}. Copy what is missing, or take it away."
        )
    return {case: [str(numbers[n]) for n in range(most)] for case, numbers in groups.items()} | alone


def name_scans(images: Sequence[Path]) -> dict[str, str]:
    """``{case: path}`` of scans of one file each.

    Raises:
        DataError: when two have one name.
    """
    scans: dict[str, str] = {}
    for image in images:
        name = case_name(image)
        if name in scans:
            raise DataError(f"{image}: a second image of case {name}, beside {scans[name]}. Rename one of them.")
        scans[name] = str(image)
    return scans
