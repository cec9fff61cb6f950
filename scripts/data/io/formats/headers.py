# SPDX-License-Identifier: Apache-2.0
"""What NRRD and MetaImage headers say that ITK keeps to itself: files they point at, units, fields of one's own."""

from __future__ import annotations

import os
import re

from ....errors import DataError

__all__ = [
    "NRRD_SUFFIXES",
    "TEXT_SUFFIXES",
    "check_text_header",
    "header_of",
    "most_voxel_bytes",
]

NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
MOST_DIMENSIONS = 10
TEXT_SUFFIXES = (*NRRD_SUFFIXES, *META_SUFFIXES)

_LARGEST_HEADER = 2**20


def check_text_header(path: str) -> list[str]:
    """Refuse a NRRD or MetaImage file that points outside its folder or is in another unit than mm.

    Returns:
        What a user should know: a voxel size that is not in the file.

    Raises:
        DataError: when it does.

    Source: ours.
    """
    header = header_of(path)
    _check_dimensions(path, header)
    for name in _data_files(path, header):
        folder = os.path.abspath(os.path.dirname(path))
        target = os.path.abspath(os.path.join(folder, name))
        if os.path.commonpath([folder, target]) != folder:
            raise DataError(
                f"{path}: its voxels are in {name}, outside its folder. Copy them beside it, or write it anew."
            )
        if os.path.exists(target) and not os.path.isfile(target):
            raise DataError(f"{path}: its voxels are in {name}, which is no file. Copy the scan again.")
    units = set(re.findall(r'"([^"]*)"', header.get("space units", ""))) - {"mm", "millimeter", ""}
    if units:
        raise DataError(f"{path}: lengths in {', '.join(sorted(units))}. Write it anew with lengths in mm.")
    sized = ("elementspacing", "elementsize", "space directions", "spacings")
    if not any(key in header for key in sized):
        return [f"{path}: no voxel size in its header, taken as 1 mm. Is that right?"]
    return []


def _check_dimensions(path: str, header: dict[str, str]) -> None:
    """ITK writes beyond its arrays for a header with more dimensions than they have room for."""
    if not header:
        return  # no header at all: the reader says what the file is
    dimensions = header.get("ndims", header.get("dimension", ""))
    sizes = header.get("dimsize", header.get("sizes", "")).split()
    whole = all(re.fullmatch(r"[0-9]{1,18}", number) for number in (dimensions, *sizes))
    if not whole or not 1 <= int(dimensions) <= MOST_DIMENSIONS or len(sizes) != int(dimensions):
        raise DataError(
            f"{path}: damaged, its header says {dimensions[:20] or 'no number of'} dimensions and sizes "
            f"{' '.join(sizes)[:40]}. Copy or export it again."
        )


def most_voxel_bytes(path: str) -> float:
    """Bytes of the files that hold the voxels of a NRRD or MetaImage scan; infinite where they are no plain names."""
    names = _data_files(path, header_of(path))
    files = [os.path.join(os.path.dirname(path), name) for name in names] or [path]
    if any("%" in name for name in names):
        return float("inf")
    return sum(os.path.getsize(file) for file in files if os.path.exists(file))


def header_of(path: str) -> dict[str, str]:
    """What a header says: keys in lower case; lines without a key, as in lists of files, under the empty key (ours)."""
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_HEADER)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Check the disk, or copy the file again."
        ) from error
    meta = path.lower().endswith(META_SUFFIXES)
    found: dict[str, str] = {}
    for line in content.split(b"\n"):
        text = line.decode("utf-8", "replace").strip()
        if not meta and not text:
            break
        key, mark, value = text.partition("=" if meta else ":")
        key = key.strip().lower()
        if not mark:
            found[""] = "\n".join(filter(None, (found.get(""), text)))
            continue
        found[key] = value.removeprefix("=").strip()
        if meta and key == "elementdatafile" and found[key].upper() == "LOCAL":
            break
    return found


def _data_files(path: str, header: dict[str, str]) -> list[str]:
    """The files, or the pattern of them, in which the voxels are said to be; none where they follow the header."""
    name = header.get("elementdatafile") or header.get("data file") or header.get("datafile") or ""
    if not name or name.upper() == "LOCAL":
        return []
    if name.upper().startswith("LIST"):
        return header.get("", "").split("\n")[0 if path.lower().endswith(META_SUFFIXES) else 1 :]
    words = name.split()
    # A pattern stands before its numbers: slice%03d.raw 1 20 1
    return [words[0] if "%" in name and len(words) > 1 else name]
