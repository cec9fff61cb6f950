# SPDX-License-Identifier: Apache-2.0
"""Read every scan once, before training, and say what is wrong with it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch.distributed as dist

from ...errors import DataError
from ...progress import track
from ...ranks import is_main_process, world_size
from ..incomplete_labels import is_ignored_name
from ..io.content import content_key
from ..io.findings import Findings
from ..io.formats.grids import AFFINE_TOLERANCE, Placement, corner_gap, placement
from ..io.formats.names import is_planar
from ..io.label_values import VALUES, class_of, from_one_hot, to_classes
from ..io.volumes import Volume, open_volume
from .label_files import voxels_of
from .read import DIMENSIONS, SECTIONS, case_files, image_files

_SAMPLED_VOXELS = 20_000
_LISTED_VALUES = 8
_WORTH_KEEPING = 10.0
"""Seconds of a check after which it keeps what it finds."""

logger = logging.getLogger(__name__)


@dataclass
class CaseReport:
    """What one case holds, and what is wrong with it.

    Attributes:
        section: its section of the datalist.
        image: its (first) image file.
        label: its label file, None for an unlabelled case.
        shape: voxels along x, y, z.
        spacing: voxel size in mm along x, y, z.
        orientation: anatomical direction of each axis, e.g. ``RAS``.
        channels: number of channels.
        intensity: per channel ``minimum``, ``maximum`` (exact) and ``mean``, ``deviation``, ``low`` and ``high`` (the
            0.5 and 99.5 percentiles) of a regular sample of voxels.
        foreground: per channel ``mean``, ``deviation``, ``low`` and ``high`` of the sample within the labelled
            structures; empty where it has no such voxel.
        label_voxels: voxels of each label value.
        ignored_voxels: voxels that nobody has annotated.
        classes: foreground classes that were annotated; None: all.
        digest: hash of the voxel values, equal for equal images in different files.
        errors: what forbids training on it.
        warnings: what a user should look at.
        affine: voxel indices to RAS+ mm, four rows.
    """

    section: str
    image: str
    label: str | None
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    channels: int = 0
    intensity: list[dict[str, float]] = field(default_factory=list)
    foreground: list[dict[str, float]] = field(default_factory=list)
    label_voxels: dict[int, int] = field(default_factory=dict)
    ignored_voxels: int = 0
    classes: list[int] | None = None
    digest: str = ""
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    affine: list[list[float]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaseReport:
        """The report whose ``asdict`` was kept as JSON."""
        known = {**values, "shape": tuple(values["shape"]), "spacing": tuple(values["spacing"])}
        return cls(**known | {"label_voxels": {int(key): count for key, count in values["label_voxels"].items()}})

    @property
    def label_volumes(self) -> dict[int, float]:
        """Volume of each label value in millilitres."""
        voxel = float(np.prod(self.spacing)) / 1000
        return {value: voxels * voxel for value, voxels in self.label_voxels.items()}


@dataclass
class DataReport:
    """What :func:`inspect_data` found: ``labels`` (value to name), a :class:`CaseReport` for each case, 2D or 3D."""

    labels: dict[int, str]
    cases: list[CaseReport]
    spatial_dims: int = 3

    @property
    def errors(self) -> list[str]:
        """All errors, in the order of the datalist."""
        return [error for case in self.cases for error in case.errors]

    @property
    def warnings(self) -> list[str]:
        """All warnings, in the order of the datalist."""
        return [warning for case in self.cases for warning in case.warnings]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        cases = [{**asdict(case), "label_volumes": case.label_volumes} for case in self.cases]
        return {"labels": self.labels, "errors": self.errors, "warnings": self.warnings, "cases": cases}


def check_data(
    datalist: Mapping[str, Any],
    labels: Mapping[int, str] | None = None,
    channels: int | None = None,
    progress: bool = True,
    workers: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> DataReport:
    """Read every file of a datalist once and refuse, before training, what would spoil it later.

    Errors: a file that cannot be read to its end, NaN or infinite intensities, an image and a label on different grids,
    3D scans among 2D images or the other way round, label values outside ``labels`` (and the datalist's ignored
    value), or of a class that the case does not list as annotated, labels that are no whole numbers, cases with
    different numbers of channels, the same voxels in two sections. Logged as warnings: constant images, labelled cases
    without foreground, a class that no training case has, the same voxels twice in one section. In a distributed job
    rank 0 reads and every rank raises.

    Args:
        datalist: from :func:`load_datalist`.
        labels: value to name; default: the datalist's own.
        channels: image channels the network takes; default: as many as the first case has.
        progress: whether to show a progress bar.
        workers: scans read at a time; default: the number of processors, at most 8. Each holds a slab of one scan.
        cache_dir: folder that keeps what a check of more than ten seconds found in sound cases. As long as path, size
            and time of change of their files are the same, they are not read again. Default: all are read.

    Returns:
        What was found, case by case.

    Raises:
        DataError: with all errors: file, what, remedy.

    Example:
        >>> report = check_data(load_datalist("data/phantom/datalist.json"))
        >>> report.cases[0].spacing
        (1.0, 1.0, 1.0)

    Source: ours.
    """
    box: list[DataReport | None] = [None]
    if is_main_process() or world_size() == 1:
        box[0] = inspect_data(datalist, labels, channels, progress, workers, cache_dir)
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    report = box[0]
    if report.errors:
        raise DataError(report.errors)
    if is_main_process():
        for warning in report.warnings[: DataError.SHOWN]:
            logger.warning(warning)
        if len(report.warnings) > DataError.SHOWN:
            logger.warning("... and %d more warnings", len(report.warnings) - DataError.SHOWN)
    return report


def inspect_data(
    datalist: Mapping[str, Any],
    labels: Mapping[int, str] | None = None,
    channels: int | None = None,
    progress: bool = True,
    workers: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> DataReport:
    """As :func:`check_data`, with errors in the report instead of raised, and in this process alone."""
    given = labels or datalist["labels"]
    labels = {int(value): name for value, name in given.items()}  # the keys are strings in a config
    if stray := [value for value, name in labels.items() if is_ignored_name(name)]:
        raise DataError(
            f'labels: {stray[0]} is called "{labels[stray[0]]}", which is no class. Leave it out of the config; the '
            'datalist says which value is ignored ("ignore": 255).'
        )
    ignore, dims = datalist.get("ignore"), datalist.get(DIMENSIONS, 3)
    jobs = [(section, case) for section in SECTIONS for case in datalist.get(section, [])]
    workers = workers or min(8, os.cpu_count() or 1)
    findings = Findings(None if cache_dir is None else Path(cache_dir) / "checked.txt", _WORTH_KEEPING)
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda job: _find_or_inspect(*job, labels, ignore, dims, findings), jobs)
        report = DataReport(labels, list(track(results, len(jobs), "Checking the data", progress)), dims)
    _compare_channels(report, channels)
    _find_copies(report)
    _find_absent_classes(report)
    return report


def _find_or_inspect(
    section: str,
    case: Mapping[str, Any],
    labels: Mapping[int, str],
    ignore: int | None,
    spatial_dims: int,
    findings: Findings,
) -> CaseReport:
    try:
        key = content_key(case_files(case), [dict(case), dict(labels), ignore, spatial_dims])
    except OSError:  # which the case's own report names
        return _inspect_case(section, case, labels, ignore, spatial_dims)
    if (found := findings[key]) is not None:
        return CaseReport.from_dict({**found, "section": section})
    report = _inspect_case(section, case, labels, ignore, spatial_dims)
    if not report.errors:
        findings[key] = asdict(report)
    return report


def _inspect_case(
    section: str, case: Mapping[str, Any], labels: Mapping[int, str], ignore: int | None, spatial_dims: int
) -> CaseReport:
    files = image_files(case)
    report = CaseReport(section, files[0], case.get("label"), classes=case.get("classes"))
    digest = hashlib.blake2b(digest_size=16)
    grid: Volume | None = None
    samples: list[np.ndarray] = []
    for file in files:
        try:
            with open_volume(file) as volume:
                _refuse_dimensions(volume, spatial_dims)
                if volume.indexed:
                    raise DataError(f"{file}: a picture of indexed colours (a palette). Save it as grey or RGB.")
                if grid is None:
                    grid = volume
                    _note_geometry(report, volume, spatial_dims)
                else:
                    report.errors += _grid_problems(volume, grid, "first channel")
                report.channels += volume.channels
                samples += _inspect_image(report, volume, digest)
        except DataError as error:
            report.errors += error.problems
    report.digest = digest.hexdigest()
    if report.label is not None:
        try:
            with open_volume(report.label) as volume:
                _refuse_dimensions(volume, spatial_dims)
                if is_planar(report.label) and grid is not None:  # it does not say where it lies
                    volume = replace(volume, affine=grid.affine)
                place = None if grid is None else placement(volume.shape, volume.affine, grid.shape, grid.affine)
                if grid is not None and not _note_placement(report, volume, grid, place):
                    report.errors += _grid_problems(volume, grid, "image")
                    place = None
                inside = _inspect_label(report, volume, labels, place, case.get(VALUES), ignore) > 0
                if not report.errors and inside.any():
                    report.foreground = [_summary(sample[inside]) for sample in samples]
        except DataError as error:
            report.errors += error.problems
    return report


def _note_placement(report: CaseReport, volume: Volume, grid: Volume, place: Placement | None) -> bool:
    """Whether a label can be laid onto its image's voxels exactly, noting what is done for it."""
    if place is None or not (place.covers(volume.shape) or volume.partial):
        return False
    own, whose = ("".join(nibabel.aff2axcodes(one.affine)) for one in (volume, grid))
    if own != whose:
        report.warnings.append(
            f"{volume.path}: its axes are {own}, its image's {whose}: the same voxels in another order. They are "
            "reordered when it is read, exactly; leave the file as it is."
        )
    if not place.covers(volume.shape):
        report.warnings.append(
            f"{volume.path}: covers {volume.shape} of its image's {grid.shape} voxels; the rest is background."
        )
    return True


def _refuse_dimensions(volume: Volume, spatial_dims: int) -> None:
    remedy = "keep both kinds in folders of their own, each with a datalist by `dualseg split`."
    if spatial_dims == 3 and volume.flat:
        size = " x ".join(map(str, volume.shape[:2]))
        raise DataError(
            f"{volume.path}: 2D, shape {size}. Only 3D scans can be used with 3D networks. Networks are 2D where all "
            f"images are: {remedy}"
        )
    if spatial_dims == 2 and volume.shape[2] != 1:
        raise DataError(
            f"{volume.path}: 3D, shape {volume.shape}. Only 2D images can be used with 2D networks: {remedy}"
        )


def _note_geometry(report: CaseReport, volume: Volume, spatial_dims: int) -> None:
    report.shape, report.spacing = volume.shape, volume.spacing
    report.orientation = "".join(nibabel.aff2axcodes(volume.affine))
    report.affine = volume.affine.tolist()
    report.warnings += volume.notes
    if min(volume.shape) == 1 and spatial_dims == 3:
        report.warnings.append(f"{volume.path}: a single slice, shape {volume.shape}. It will be padded to the patch.")


def _inspect_image(report: CaseReport, volume: Volume, digest: Any) -> list[np.ndarray]:
    """Note intensities and digest; the sampled voxels of each channel."""
    voxels = int(np.prod(volume.shape))
    channel, samples = _ChannelStatistics(voxels), []
    for slab in volume.slabs():
        values = slab.ravel(order="F")
        digest.update(values.astype(np.float32, copy=False).data)
        channel.add(values)
        if channel.sample.seen == voxels:
            samples.append(channel.sample.values())
            report.intensity.append(channel.summary())
            channel = _ChannelStatistics(voxels)
    for number, found in enumerate(report.intensity[-volume.channels :], start=1):
        name = f"{volume.path}: channel {number}" if volume.channels > 1 else f"{volume.path}:"
        if not np.isfinite([found["minimum"], found["maximum"]]).all():
            report.errors.append(
                f"{name} holds NaN or infinite values. Replace them (e.g. by 0) or leave the case out."
            )
        elif found["minimum"] == found["maximum"]:
            report.warnings.append(f"{name} constant image, every voxel is {found['minimum']:g}. Is it the right file?")
    return samples


class _Sample:
    """Every n-th voxel of a volume of ``voxels``, slab by slab: the same places in an image and in its label."""

    def __init__(self, voxels: int) -> None:
        self.step = max(1, voxels // _SAMPLED_VOXELS) | 1  # odd, so as not to run along a column
        self.seen, self.parts = 0, []

    def add(self, values: np.ndarray) -> None:
        self.parts.append(values[-self.seen % self.step :: self.step].astype(np.float64))
        self.seen += values.size

    def values(self) -> np.ndarray:
        return np.concatenate(self.parts)


class _ChannelStatistics:
    """Exact extremes and a regular sample of the voxels of one channel, slab by slab."""

    def __init__(self, voxels: int) -> None:
        self.minimum, self.maximum = np.inf, -np.inf
        self.sample = _Sample(voxels)

    def add(self, values: np.ndarray) -> None:
        # np.minimum keeps a NaN, where min() would drop it.
        self.minimum, self.maximum = np.minimum(self.minimum, values.min()), np.maximum(self.maximum, values.max())
        self.sample.add(values)

    def summary(self) -> dict[str, float]:
        found = {"minimum": float(self.minimum), "maximum": float(self.maximum)}
        if not np.isfinite(list(found.values())).all():
            return found
        return found | _summary(self.sample.values())


def _summary(sample: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(sample, [0.5, 99.5])
    statistics = {"mean": sample.mean(), "deviation": sample.std(), "low": low, "high": high}
    return {name: float(value) for name, value in statistics.items()}


def _slabs_on_image(volume: Volume, place: Placement | None) -> Iterator[np.ndarray]:
    """The label's voxels in the order of its image's."""
    if volume.channels == 1 and (place is None or (place.changes_nothing and place.covers(volume.shape))):
        yield from volume.slabs()
        return
    whole = voxels_of(volume)
    voxels = whole[0] if volume.channels == 1 else from_one_hot(whole, volume.path)
    yield voxels if place is None else place.apply(voxels)


def _inspect_label(
    report: CaseReport,
    volume: Volume,
    labels: Mapping[int, str],
    place: Placement | None,
    values: Sequence[float] | None,
    ignore: int | None,
) -> np.ndarray:
    """Note the label's values and what is wrong with them; the sampled classes, 0 where they are ignored."""
    if volume.channels > 1:
        report.warnings.append(f"{volume.path}: {volume.channels} channels of 0 and 1, taken as one class each.")
    counts: dict[float, int] = {}
    sample = _Sample(int(np.prod(volume.shape if place is None else place.shape)))
    for slab in _slabs_on_image(volume, place):
        sample.add(slab.ravel(order="F"))
        for value, count in _count_values(slab):
            counts[value] = counts.get(value, 0) + count
    if ignore is not None:
        report.ignored_voxels = sum(counts.pop(value) for value in list(counts) if class_of(value, [ignore]) == 0)
    classes: dict[int, int] = {}
    stray: list[float] = []
    for value, count in sorted(counts.items()):
        number = class_of(value, None if volume.channels > 1 else values)
        if number in labels:
            classes[number] = classes.get(number, 0) + count
        else:
            stray.append(value)
    report.label_voxels = dict(sorted(classes.items()))
    many = "Is this the image, in the label's place?"
    shown = ", ".join(f"{value if values is None else values[value]} {name}" for value, name in labels.items())
    if fractional := [value for value in stray if class_of(value, None) is None]:
        hint = (
            many if len(counts) > 50 else "Save it anew as class numbers, or say which value each class has (--values)."
        )
        report.errors.append(f"{volume.path}: label values that are no whole numbers ({_listed(fractional)}). {hint}")
    elif stray:
        hint = many if len(counts) > 50 else _stray_hint(stray)
        voxels = sum(counts[value] for value in stray)
        report.errors.append(
            f"{volume.path}: label values {_listed(stray)} in {voxels} voxels, but the classes are {shown}. {hint}"
        )
    elif report.classes is not None and (extra := sorted(classes.keys() - {0, *report.classes})):
        report.errors.append(
            f"{volume.path}: class {extra[0]} ({labels[extra[0]]}) in {classes[extra[0]]} voxels, but the case's "
            f'"classes" are {", ".join(map(str, report.classes))}. Add it there, or erase these voxels.'
        )
    elif not counts:
        report.errors.append(
            f"{volume.path}: every voxel has the ignored value {ignore}. Label some, or list the case as unlabelled."
        )
    elif set(classes) == {0}:
        report.warnings.append(
            f"{volume.path}: a label without foreground. If it is not done yet, list it as unlabelled."
        )
    sampled = to_classes(sample.values(), values if volume.channels == 1 else None)
    return sampled if ignore is None else np.where(np.isclose(sampled, ignore), 0, sampled)


def _count_values(slab: np.ndarray) -> list[tuple[float, int]]:
    if slab.dtype == np.uint8:  # the usual label file; counting is far faster than sorting
        counts = np.bincount(slab.ravel(order="K"))
        return [(float(value), int(counts[value])) for value in np.flatnonzero(counts)]
    return [(float(value), int(count)) for value, count in zip(*np.unique(slab, return_counts=True), strict=True)]


def _stray_hint(stray: list[float]) -> str:
    hint = (
        "If 255 marks the structure, make the datalist with `dualseg split --values 0,255`, or save it as 1"
        if stray == [255.0]
        else 'Correct the voxels, or add the classes to "labels"'
    )
    if len(stray) > 1:
        return f"{hint}."
    return f'{hint}; if nobody has labelled these voxels, add "ignore": {stray[0]:g} to the datalist.'


def _listed(values: list[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:_LISTED_VALUES])
    return shown + (f", ... {len(values)} in all" if len(values) > _LISTED_VALUES else "")


def _grid_problems(volume: Volume, reference: Volume, role: str) -> list[str]:
    """Where ``volume`` does not lie on the grid of ``reference``; empty when it does."""
    if volume.partial and volume.shape != reference.shape:
        return [
            f"{volume.path}: segments whose box, {volume.shape}, is not on voxels of the {role} ({reference.path}). "
            "In 3D Slicer, export it as a labelmap with the scan as reference volume."
        ]
    if volume.shape != reference.shape:
        return [
            f"{volume.path}: shape {volume.shape}, but its {role} has {reference.shape} ({reference.path}). "
            "Pair the right files, or resample it onto that grid."
        ]
    gap = corner_gap(volume.shape, volume.affine, reference.affine)
    if gap <= AFFINE_TOLERANCE * min(reference.spacing):
        return []
    return [
        f"{volume.path}: same shape as its {role}, but another affine: up to {gap:.3g} mm apart ({reference.path}). "
        f"If the voxels do match, save it with the affine of its {role}; else resample it."
    ]


def _compare_channels(report: DataReport, channels: int | None) -> None:
    readable = [case for case in report.cases if case.channels]
    if not readable:
        return
    expected = channels or readable[0].channels
    whose = "the network takes" if channels else f"the first case ({readable[0].image}) has"
    for case in readable:
        if case.channels != expected and not case.errors:
            case.errors.append(
                f"{case.image}: {case.channels} channels (a 4D file?), but {whose} {expected}. "
                "Leave the case out, save the right volume, or set the number of channels."
            )


def _find_copies(report: DataReport) -> None:
    first: dict[str, CaseReport] = {}
    for case in report.cases:
        if case.errors:
            continue
        other = first.setdefault(case.digest, case)
        if other is case:
            continue
        text = f'{case.image} ("{case.section}"): the same voxels as {other.image} ("{other.section}"). '
        if other.section == case.section:
            case.warnings.append(text + "Is it twice in the data?")
        else:
            case.errors.append(text + "No case may be in two sections: remove one.")


def _find_absent_classes(report: DataReport) -> None:
    training = [case for case in report.cases if case.section == "training"]
    if not training or any(case.errors for case in training):
        return
    for value, name in report.labels.items():
        if not any(case.label_voxels.get(value) for case in training):
            training[0].warnings.append(f'class {value} ({name}) is in no case of "training": it cannot be learned.')
