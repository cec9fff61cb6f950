# SPDX-License-Identifier: Apache-2.0
"""Labels are checked when they are submitted, and their values put in the order of the server's structures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import SimpleITK
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from scripts.data import DataError, inspect_data
from scripts.data.io.segment_names import give_values, values_by_name

from .settings import Settings

NAMES = "label_info"
"""Key under which clients name a label's values: ``[{"name": "liver", "idx": 1}, ...]``; 3D Slicer sends it."""

EMPTY = "empty"
"""Key with which a client says that a scan shows none of the structures."""

SCRIBBLES = "scribbles"
"""Key with which a client says that only what is marked was annotated; it is kept beside the saved label."""

BACKGROUND_MARKS = frozenset({"background", "background_scribbles"})
FOREGROUND_MARKS = "foreground_scribbles"
"""Names of segments that make a label one of scribbles, where it has voxels of theirs."""

STRUCTURE = "selected_label_name"
"""Key of the structure that ``foreground_scribbles`` mark; where there is only one it need not be given."""

IGNORED = 255
"""Value, in a saved label, of a voxel that nobody has annotated."""


class Checked(NamedTuple):
    """A label that can be trained on: its file, a note for the client ("" if none), whether it holds scribbles."""

    file: Path
    note: str
    scribbles: bool


def scribble_files(datastore: Datastore) -> set[str]:
    """Those of the final labels that hold scribbles: files in which :data:`IGNORED` means not annotated."""
    tag = DefaultLabelTag.FINAL
    labels = [datastore.get_label_by_image_id(name, tag) for name in datastore.get_labeled_images()]
    return {datastore.get_label_uri(one, tag) for one in labels if datastore.get_label_info(one, tag).get(SCRIBBLES)}


class LabelChecks:
    """Checks labels, each file once (ours).

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._sound: set[tuple] = set()

    @contextmanager
    def checked(self, file: Path, image: str, params: Mapping[str, Any], name: str) -> Iterator[Checked]:
        """Check a label that a client submits.

        Args:
            file: the label.
            image: file of its scan.
            params: what the client said of it: ``label_info`` names its values (where it is not given, the segments of
                a ``.seg.nrrd`` do), ``empty`` says that there are none,
                ``scribbles`` that what is not marked was not annotated. Voxels of a segment that is called
                ``background``, ``background_scribbles`` or ``foreground_scribbles`` say so, too. Without names the
                first two values after those of the structures are the latter two, as in MONAI Label. A label that
                holds ``IGNORED`` is taken as it is: 0 is background there.
            name: of the scan, for messages.

        Yields:
            The label to save, which is another file if it holds scribbles, or if the client numbers the structures
            otherwise than the server.

        Raises:
            DataError: when it cannot be used.
        """
        named = _named_values(params.get(NAMES)) or self._named_segments(file)
        label = _read(file, name)
        values = np.unique(SimpleITK.GetArrayViewFromImage(label))
        scribbles = bool(params.get(SCRIBBLES)) or any(_is_mark(named.get(value, "")) for value in values if value)
        if scribbles and not named:
            named = self._default_names()
        # with fractions among them the checks below refuse it
        as_it_is = not np.equal(np.mod(values, 1), 0).all() or (scribbles and IGNORED in values)
        mapping = self._mapping(values, {} if as_it_is else named, params.get(STRUCTURE), name)
        changed = {value: target for value, target in mapping.items() if value != target}
        with TemporaryDirectory() as folder:
            saved, note = file, ""
            if changed or (scribbles and not as_it_is):
                saved = Path(folder, file.name)
                _write_mapped(label, mapping, saved, IGNORED if scribbles else 0)
            if scribbles:
                note = _note_on_scribbles(saved)
            elif changed:
                pairs = (f"{named[value]} {value} to {target}" for value, target in changed.items())
                note = f"Values changed by name: {', '.join(pairs)}."
            report = inspect_data(self._case(image, str(saved), scribbles), progress=False, workers=1)
            problems = report.errors
            if not problems and not set(mapping.values()) - {0, IGNORED} and not params.get(EMPTY):
                structures = ", ".join(self.settings.structures)
                problems = [
                    f"{saved}: empty. Draw {structures} first. If the scan shows none of it, submit it with "
                    f'params {{"{EMPTY}": true}}.'
                ]
            if problems:
                raise DataError([problem.replace(str(saved), f"The label of {name}") for problem in problems])
            yield Checked(saved, note, scribbles)

    def note_sound(self, label: str) -> None:
        """Remember that a saved label needs no further check."""
        self._sound.add(_identity(label))

    def problems(self, datastore: Datastore) -> list[str]:
        """What is wrong with the final labels of a datastore; also those that came there without being submitted."""
        problems, scribbles = [], scribble_files(datastore)
        try:
            cases = datastore.datalist()
        except DataError as error:  # of a DICOM SEG that does not lie on its scan
            return [str(error)]
        for case in cases:
            if _identity(case["label"]) in self._sound:
                continue
            try:
                listed = self._case(case["image"], case["label"], case["label"] in scribbles)
                found = inspect_data(listed, progress=False, workers=1).errors
            except DataError as error:  # of a segmentation whose segments are none of the structures
                found = [str(error)]
            if not found:
                self.note_sound(case["label"])
            problems += found
        return problems

    def _case(self, image: str, label: str, scribbles: bool) -> dict[str, Any]:
        cases, ignore = [{"image": image, "label": label}], IGNORED if scribbles else None
        give_values(cases, self.settings.labels, None, ignore)
        return {"labels": self.settings.labels, "training": cases, "ignore": ignore}

    def _named_segments(self, file: Path) -> dict[int, str]:
        """Value to name in a segmentation of 3D Slicer whose names say other than its values; empty for any other."""
        own = values_by_name([str(file)], self.settings.labels, None).get(str(file), [])
        return {int(value): self.settings.labels[number] for number, value in enumerate(own) if number}

    def _default_names(self) -> dict[int, str]:
        last = max(self.settings.labels)
        return {**self.settings.labels, last + 1: "background_scribbles", last + 2: FOREGROUND_MARKS}

    def _mapping(self, values: np.ndarray, named: dict[int, str], structure: Any, name: str) -> dict[int, int]:
        """Value in the label to value of the server, for each value but 0."""
        if not named:
            return {int(value): int(value) for value in values if value}  # the checks of values follow
        wanted = {one.lower(): value for one, value in self.settings.structures.items()}
        wanted |= {mark: 0 for mark in BACKGROUND_MARKS if mark not in wanted}
        unknown = [value for value in map(int, values) if value and named.get(value, "").lower() not in wanted]
        if any(named.get(value) == FOREGROUND_MARKS for value in unknown):
            wanted[FOREGROUND_MARKS] = self._marked_structure(structure, name)
            unknown = [value for value in unknown if named.get(value) != FOREGROUND_MARKS]
        if unknown:
            listed = ", ".join(f"{value} ({named.get(value, 'without a name')})" for value in unknown)
            raise DataError(
                f"The label of {name}: its values {listed} are none of the structures "
                f"{', '.join(self.settings.structures)}. Rename or remove these segments, then submit again."
            )
        return {int(value): wanted[named[int(value)].lower()] for value in values if value}

    def _marked_structure(self, structure: Any, name: str) -> int:
        """Value of the structure that ``foreground_scribbles`` mark."""
        structures = self.settings.structures
        structure = structure or (next(iter(structures)) if len(structures) == 1 else None)
        if structure not in structures:
            raise DataError(
                f"The label of {name}: {FOREGROUND_MARKS} of which structure? Give {STRUCTURE}, one of "
                f"{', '.join(structures)}."
            )
        return structures[structure]


def _is_mark(name: str) -> bool:
    return name == FOREGROUND_MARKS or name.lower() in BACKGROUND_MARKS


def _note_on_scribbles(label: Path) -> str:
    """What becomes of a label of scribbles, for the client."""
    voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(label)))
    note = f"Scribbles: {int((voxels == IGNORED).sum())} of {voxels.size} voxels are not annotated, and left out."
    return note if (voxels == 0).any() else f"{note} No background is marked: mark some, or the structures grow."


def _named_values(info: Any) -> dict[int, str]:
    """Value to name; empty when the client gave none.

    Raises:
        DataError: when it is not of the form that clients use.
    """
    if info is None:
        return {}
    try:
        return {int(entry["idx"]): str(entry["name"]) for entry in info}
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f'{NAMES} is {info!r}. Give a list such as [{{"name": "liver", "idx": 1}}].') from error


def _read(file: Path, name: str) -> SimpleITK.Image:
    try:
        return SimpleITK.ReadImage(str(file))
    except RuntimeError as error:
        raise DataError(
            f"The label of {name}: {file.name} cannot be read. Export it again, e.g. as .nii.gz."
        ) from error


def _write_mapped(label: SimpleITK.Image, mapping: Mapping[int, int], file: Path, unmarked: int) -> None:
    """Write the label with other values on the same grid; ``unmarked`` in place of 0."""
    voxels = SimpleITK.GetArrayViewFromImage(label)
    mapped = np.full(voxels.shape, unmarked, np.uint8)
    for value, target in mapping.items():
        mapped[voxels == value] = target
    image = SimpleITK.GetImageFromArray(mapped)
    image.CopyInformation(label)
    SimpleITK.WriteImage(image, str(file), useCompression=True)


def _identity(label: str) -> tuple:
    stat = Path(label).stat()
    return label, stat.st_mtime_ns, stat.st_size
