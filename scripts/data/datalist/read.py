# SPDX-License-Identifier: Apache-2.0
"""The datalist: which scans are labelled, unlabelled, for validation and for test."""

from __future__ import annotations

import difflib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...config_text import CONFIG_MARKS, find_config_text, is_text
from ...errors import DataError
from ..incomplete_labels import PSEUDO, annotated_classes, take_ignored
from ..io.formats.hdf5 import DATASET_MARK, H5_SUFFIXES, split_dataset
from ..io.formats.names import is_planar, scans_in
from ..io.label_values import VALUES, parse_values
from ..io.regions import REGIONS, parse_regions
from ..io.segment_names import give_values

SECTIONS = ("training", "unlabeled", "validation", "test")
"""Sections of a datalist; all but ``unlabeled`` need a label for each case."""

SECTION = "section"
"""Key of a case in JSON lines."""

DIMENSIONS = "spatial_dims"
"""Key of a datalist: 2 for images of one slice and networks of two dimensions, else 3."""


def load_datalist(path: str | os.PathLike, validation: int = 0) -> dict[str, Any]:
    """Read a datalist and prove that its structure is sound: sections, labels, files present, no case in two sections.

    The file is JSON: ``labels`` ``{"0": "background", "1": name, ...}``, ``training`` ``[{"image": path, "label":
    path}]`` and optionally ``unlabeled`` ``[{"image": path}]``, ``validation``, ``test``; paths are relative to the
    file. An ``image`` may be a list of files, one per channel, or a folder with one DICOM series; a benchmark HDF5 file
    holds both, so its path serves for both. ``modality`` may list what the channels show, e.g. ``["CT"]``, ``values``
    the value that each class has in the label files, e.g. ``[0, 255]``. ``ignore`` may give the label value of voxels
    that nobody has annotated, as may a label named "ignore"; ``classes`` of a case lists, by number or name, the
    classes that were annotated in it, where these are not all; ``pseudo`` says that a model made its label.
    ``regions`` may name unions of classes, ``{name: [number]}``, which are then scored in the place of the classes.
    ``spatial_dims`` is 2 for images of one slice (default where the first one is PNG, TIFF, JPEG or BMP), else 3.
    Other keys (``name``, ...) are for the reader. What the volumes hold is the task of :func:`check_data`.

    A file ``NAME.jsonl`` is JSON lines: everything but the cases in the first one, then a case in each, with its
    ``section``.

    Args:
        path: the JSON file.
        validation: how many cases to move from the end of ``training`` to ``validation``. A datalist that has
            validation cases of its own keeps those, and all of its training cases.

    Returns:
        ``labels`` ``{int: name}``, ``modality`` and ``values`` (lists, or None), ``ignore`` (a value, or None),
        ``regions`` (empty where there are none), ``spatial_dims`` and the four sections, lists of ``{"image": path[,
        "label": path[, "classes": [number]]]}`` with absolute paths (a list of paths for an image of several files);
        where any training case is, all are told ``pseudo`` or not.

    Raises:
        DataError: with all that is wrong, each by file, cause and remedy.

    Example:
        >>> cases = load_datalist("data/phantom/datalist.json")
        >>> len(cases["training"]), len(cases["unlabeled"])
        (4, 24)

    Source: ours.
    """
    path = Path(path)
    content = read_content(path)
    ignore = take_ignored(path, content)
    labels = _parse_labels(path, content)
    _refuse_unknown_sections(path, content)
    root = path.resolve().parent
    sections, problems = {}, []
    for section in SECTIONS:
        sections[section], found = _parse_section(path, root, section, content.get(section, []), labels)
        problems += found
    if problems:
        raise DataError(problems)
    values = _parse_values(path, content, labels)
    if not any(case[PSEUDO] for case in sections["training"]):  # in all cases or in none: batches have the same keys
        for case in sections["training"]:
            del case[PSEUDO]
    if not sections["training"]:
        raise DataError(f'{path}: "training" is empty or missing. List at least one case with image and label there.')
    problems = [*_missing_files(path, sections), *_repeated_cases(path, sections)]
    if problems:
        raise DataError(problems)
    labelled = [case for section in SECTIONS for case in sections[section] if "label" in case]
    give_values(labelled, labels, values, ignore)
    _take_validation(path, sections, validation)
    modality = _parse_modality(path, content.get("modality"))
    regions = parse_regions(path, content.get(REGIONS), labels)
    refuse_config_text(path, {REGIONS: list(regions)})
    head = {"labels": labels, "modality": modality, VALUES: values, "ignore": ignore, REGIONS: regions}
    return {**head, DIMENSIONS: _parse_dimensions(path, content, sections), **sections}


def image_files(case: Mapping[str, Any]) -> list[str]:
    """The files of a case's image: one, or one per channel."""
    return case["image"] if isinstance(case["image"], list) else [case["image"]]


def case_files(case: Mapping[str, Any]) -> list[str]:
    """The files of a case's image and, where it has one, its label."""
    return [*image_files(case), *([case["label"]] if "label" in case else [])]


def unlisted_files(datalist: dict[str, Any]) -> list[str]:
    """Scan files that lie beside the listed ones and are in no section, as labels of unlabelled scans are (ours)."""
    listed = {
        os.path.realpath(split_dataset(file)[0])
        for section in SECTIONS
        for case in datalist[section]
        for file in case_files(case)
    }
    folders = sorted({os.path.dirname(file) for file in listed if os.path.isfile(file)})
    beside = [file for folder in folders for file in map(str, scans_in(Path(folder)))]
    return [file for file in beside if os.path.isfile(file) and os.path.realpath(file) not in listed]


def read_content(path: Path) -> dict[str, Any]:
    """What a datalist's file says, with its paths as they stand there; of JSON lines as it would stand in JSON.

    Raises:
        DataError: when it cannot be read, or is no JSON object.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a datalist. Name the JSON file in it, e.g. {path / 'datalist.json'}.")
    if not path.exists():
        nearest = next(parent for parent in path.absolute().parents if parent.is_dir())
        cause = "no such file" if nearest == path.absolute().parent else f"no such folder (there is only {nearest})"
        raise DataError(f"{path}: {cause}. Correct dataset_dir, or make a datalist with `dualseg split`.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = _from_lines(path, text) if is_lines(path) else json.loads(text)
    except DataError:
        raise
    except RecursionError as error:
        raise DataError(f"{path}: nested too deeply for a datalist. Write it anew with `dualseg split`.") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "Often a comma too many before ] or }, or one missing."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text file ({error.reason}). A datalist is JSON text.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: not a datalist ({error}). Write it anew with `dualseg split`.") from error
    if not is_text(content):
        raise DataError(f"{path}: a name in it has half a character (a lone surrogate). Rename that file or class.")
    if not isinstance(content, dict):
        raise DataError(f'{path}: a JSON {type(content).__name__} where an object with "labels", "training" is needed.')
    return content


def is_lines(path: Path) -> bool:
    """Whether a datalist of this name is JSON lines."""
    return path.suffix.lower() == ".jsonl"


def _from_lines(path: Path, text: str) -> Any:
    content: Any = None
    start = 0
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a name may hold other ends of lines
        try:
            entry = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise json.JSONDecodeError(error.msg, text, start + error.pos) from error
        start += len(line) + 1
        if entry is None:
            continue
        if content is None:
            content = entry
            if not isinstance(content, dict):
                break
            if given := [section for section in SECTIONS if section in content]:
                raise DataError(
                    f'{path}: its first line has "{given[0]}". In JSON lines each case has a line of its own, with its '
                    "section; or name the file .json."
                )
        elif isinstance(entry, dict) and entry.get(SECTION) in SECTIONS:
            content.setdefault(entry.pop(SECTION), []).append(entry)
        else:
            raise DataError(
                f'{path}: line {number} is no case of a section. Write {{"section": "unlabeled", "image": path}}; the '
                f"sections are {', '.join(SECTIONS)}."
            )
    return content


def _parse_labels(path: Path, content: dict[str, Any]) -> dict[int, str]:
    remedy = 'Write e.g. "labels": {"0": "background", "1": "left atrium"}.'
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(f'{path}: "labels" is missing or not an object of value: name. {remedy}')
    try:
        parsed = {int(value): name for value, name in labels.items()}
    except ValueError as error:
        raise DataError(f'{path}: "labels" has a key that is not a whole number ({error}). {remedy}') from error
    if sorted(parsed) != list(range(len(labels))) or len(parsed) < 2:
        raise DataError(
            f'{path}: "labels" has the values {sorted(parsed)}; they must start at 0 (background) and be consecutive, '
            "at least 0 and 1. Renumber them here and in the label files."
        )
    names = list(parsed.values())
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise DataError(f'{path}: "labels" has the names {names}; each must be a text of its own. {remedy}')
    refuse_config_text(path, {"labels": names})
    return dict(sorted(parsed.items()))


def _parse_values(path: Path, content: dict[str, Any], labels: dict[int, str]) -> list[float] | None:
    values = parse_values(content.get(VALUES), f'{path}: "{VALUES}"')
    if values is not None and len(values) != len(labels):
        raise DataError(f'{path}: "{VALUES}" has {len(values)} values for {len(labels)} "labels". Give each class one.')
    return values


def _parse_modality(path: Path, names: Any) -> list[str] | None:
    if names is None or (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        refuse_config_text(path, {"modality": names})
        return names
    raise DataError(f'{path}: "modality" is {names!r}. Write one name for each channel, e.g. ["CT"], or leave it out.')


def _parse_dimensions(path: Path, content: dict[str, Any], sections: dict[str, list[dict[str, Any]]]) -> int:
    planar = is_planar(image_files(sections["training"][0])[0])
    dims = content.get(DIMENSIONS, 2 if planar else 3)
    if type(dims) is not int or dims not in (2, 3):
        raise DataError(f'{path}: "{DIMENSIONS}" is {dims!r}. Write 2 or 3, or leave it out.')
    return dims


def refuse_config_text(path: Path, names: dict[str, Any]) -> None:
    """Names reach the configs that a run writes, so none may be a text that MONAI evaluates.

    Raises:
        DataError: when one is.
    """
    for key, value in names.items():
        if (name := find_config_text(value)) is not None:
            raise DataError(
                f'{path}: "{key}" has the name {name!r}. A name that starts with {" or ".join(CONFIG_MARKS)} is code '
                "in a MONAI config: rename it."
            )


def _refuse_unknown_sections(path: Path, content: dict[str, Any]) -> None:
    for key, value in content.items():
        if key in (*SECTIONS, "modality", VALUES) or not isinstance(value, list):
            continue
        near = difflib.get_close_matches(key, SECTIONS, n=1, cutoff=0.6)
        if not near and not any(isinstance(entry, dict) for entry in value):
            continue
        guess = f', did you mean "{near[0]}"?' if near else "."
        raise DataError(f'{path}: unknown section "{key}"{guess} The sections are {", ".join(SECTIONS)}.')


def _parse_section(
    path: Path, root: Path, section: str, entries: Any, labels: dict[int, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    if not isinstance(entries, list):
        return [], [f'{path}: "{section}" is a {type(entries).__name__}. It must be a list of {{"image": ...}}.']
    cases, problems = [], []
    for number, entry in enumerate(entries, start=1):
        problem = _entry_problem(section, entry)
        if problem:
            problems.append(f'{path}: case {number} of "{section}" {problem}')
            continue
        image = entry["image"]
        found = [_absolute(root, file, "image") for file in (image if isinstance(image, list) else [image])]
        case = {"image": found if isinstance(image, list) else found[0]}
        if section != "unlabeled":  # a label of an unlabelled case is not even looked at
            case["label"] = _absolute(root, entry["label"], "label")
            classes, problem = annotated_classes(entry, labels)
            case |= {} if classes is None else {"classes": classes}
            case |= {PSEUDO: bool(entry.get(PSEUDO))} if section == "training" else {}
            problems += [f'{path}: case {number} of "{section}" ({found[0]}): {problem}'] if problem else []
        cases.append(case)
    return cases, problems


def _entry_problem(section: str, entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return f'is {entry!r}. Write {{"image": path, "label": path}}, or make the list with `dualseg split`.'
    image = entry.get("image")
    files = image if isinstance(image, list) else [image]
    if not files or not all(isinstance(file, str) and file and "\0" not in file for file in files):
        return f'has no "image" (found {entry!r}). Give a path, or a list of paths, one per channel.'
    if section == "unlabeled":
        return None
    label = entry.get("label")
    if not (isinstance(label, str) and label and "\0" not in label):
        return f'({files[0]}) has no "label". Add its path, or move the case to "unlabeled".'
    if label in files and not label.lower().endswith(H5_SUFFIXES):
        return f'({files[0]}) names the image as its label. Give the label\'s path, or move the case to "unlabeled".'
    return None


def _absolute(root: Path, file: str, role: str) -> str:
    path = _as_it_is_here(os.path.normpath(root / file))
    return f"{path}{DATASET_MARK}{role}" if path.lower().endswith(H5_SUFFIXES) else path


def _as_it_is_here(path: str) -> str:
    """The path, if need be with Windows' separators or accents in the form that this file system has."""
    if os.path.lexists(split_dataset(path)[0]):
        return path
    plain = path.replace("\\", "/")
    forms = [plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))]
    return next((os.path.normpath(form) for form in forms if os.path.exists(split_dataset(form)[0])), path)


def _real(file: str) -> str:
    """The path with links resolved, for comparison."""
    path, dataset = split_dataset(file)
    return f"{os.path.realpath(path)}{DATASET_MARK}{dataset}"


def _cases(sections: dict[str, list]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section in SECTIONS:
        for case in sections[section]:
            yield section, case


def _missing_files(path: Path, sections: dict[str, list]) -> list[str]:
    problems = []
    for section, case in _cases(sections):
        for role, files in (("image", image_files(case)), ("label", [case["label"]] if "label" in case else [])):
            problems += [
                f'{file}: no such {role} file (in "{section}" of {path.name}). '
                "Copy it there, or correct its path, which is relative to the datalist."
                for file in files
                if not os.path.exists(split_dataset(file)[0])
            ]
    return problems


def _repeated_cases(path: Path, sections: dict[str, list]) -> list[str]:
    problems: list[str] = []
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for section, case in _cases(sections):
        for file in image_files(case):
            first = images.setdefault(_real(file), section)
            if first != section:
                problems.append(
                    f'{file}: in both "{first}" and "{section}" of {path.name}. Remove it from one of them.'
                )
        if "label" in case:
            owner = labels.setdefault(_real(case["label"]), image_files(case)[0])
            if owner != image_files(case)[0]:
                problems.append(f"{case['label']}: the label of two images. Correct the entry of {owner} or the other.")
    for section in SECTIONS:
        seen: set[tuple[str, ...]] = set()
        for case in sections[section]:
            key = tuple(_real(file) for file in image_files(case))
            if key in seen:
                problems.append(f'{image_files(case)[0]}: twice in "{section}" of {path.name}. Remove one entry.')
            seen.add(key)
    return problems


def _take_validation(path: Path, sections: dict[str, list], count: int) -> None:
    if count == 0 or sections["validation"]:
        return
    available = len(sections["training"])
    if not 0 < count < available:
        raise DataError(
            f"{path}: {count} validation cases cannot be taken out of {available} labelled ones, of which at least one "
            "must remain for training. Ask for fewer, or label more."
        )
    sections["validation"] = sections["training"][-count:]
    sections["training"] = sections["training"][:-count]
