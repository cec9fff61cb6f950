# SPDX-License-Identifier: Apache-2.0
"""Read every scan once, before training, and say what is wrong with it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import nibabel
import numpy as np
import torch.distributed as dist

from .datalist import SECTIONS, image_files
from .errors import DataError
from .progress import is_main_process, track
from .volumes import Volume, open_volume

AFFINE_TOLERANCE = 0.1
"""How far, in voxels, a label's corner may lie from its image's corner."""

_SAMPLED_VOXELS = 20_000
_LISTED_VALUES = 8

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
        digest: hash of the voxel values, equal for equal images in different files.
        errors: what forbids training on it.
        warnings: what a user should look at.
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
    digest: str = ""
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def label_volumes(self) -> dict[int, float]:
        """Volume of each label value in millilitres."""
        voxel = float(np.prod(self.spacing)) / 1000
        return {value: voxels * voxel for value, voxels in self.label_voxels.items()}


@dataclass
class DataReport:
    """What :func:`inspect_data` found: ``labels`` (value to name) and a :class:`CaseReport` for each case."""

    labels: dict[int, str]
    cases: list[CaseReport]

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
) -> DataReport:
    """Read every file of a datalist once and refuse, before training, what would spoil it later.

    Errors: a file that cannot be read to its end, NaN or infinite intensities, an image and a label on different grids,
    label values outside ``labels``, labels that are no whole numbers, cases with different numbers of channels, the
    same voxels in two sections. Logged as warnings: constant images, labelled cases without foreground, a class that no
    training case has, the same voxels twice in one section. In a distributed job rank 0 reads and every rank raises.

    Args:
        datalist: from :func:`load_datalist`.
        labels: value to name; default: the datalist's own.
        channels: image channels the network takes; default: as many as the first case has.
        progress: whether to show a progress bar.
        workers: scans read at a time; default: the number of processors, at most 8. Each holds a slab of one scan.

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
    if is_main_process() or not _in_job():
        box[0] = inspect_data(datalist, labels, channels, progress, workers)
    if _in_job():
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
) -> DataReport:
    """As :func:`check_data`, with errors in the report instead of raised, and in this process alone."""
    given = labels or datalist["labels"]
    labels = {int(value): name for value, name in given.items()}  # the keys are strings in a config
    jobs = [(section, case) for section in SECTIONS for case in datalist.get(section, [])]
    workers = workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda job: _inspect_case(*job, labels), jobs)
        report = DataReport(labels, list(track(results, len(jobs), "Checking the data", progress)))
    _compare_channels(report, channels)
    _find_copies(report)
    _find_absent_classes(report)
    return report


def _in_job() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _inspect_case(section: str, case: Mapping[str, Any], labels: Mapping[int, str]) -> CaseReport:
    files = image_files(case)
    report = CaseReport(section, files[0], case.get("label"))
    digest = hashlib.blake2b(digest_size=16)
    grid: Volume | None = None
    samples: list[np.ndarray] = []
    for file in files:
        try:
            with open_volume(file) as volume:
                if grid is None:
                    grid = volume
                    _note_geometry(report, volume)
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
                inside = _inspect_label(report, volume, labels) > 0
                if grid is not None:
                    report.errors += _grid_problems(volume, grid, "image")
                if not report.errors and inside.any():
                    report.foreground = [_summary(sample[inside]) for sample in samples]
        except DataError as error:
            report.errors += error.problems
    return report


def _note_geometry(report: CaseReport, volume: Volume) -> None:
    report.shape, report.spacing = volume.shape, volume.spacing
    report.orientation = "".join(nibabel.aff2axcodes(volume.affine))
    if min(volume.shape) == 1:
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


def _inspect_label(report: CaseReport, volume: Volume, labels: Mapping[int, str]) -> np.ndarray:
    """Note the label's values and what is wrong with them; the sampled voxels."""
    if volume.channels > 1:
        raise DataError(f"{volume.path}: a label of {volume.channels} channels. Save one volume of class numbers.")
    counts: dict[float, int] = {}
    sample = _Sample(int(np.prod(volume.shape)))
    for slab in volume.slabs():
        sample.add(slab.ravel(order="F"))
        for value, count in _count_values(slab):
            counts[value] = counts.get(value, 0) + count
    stray = sorted(value for value in counts if value not in labels)
    fractional = [value for value in stray if not value.is_integer()]
    report.label_voxels = {int(value): count for value, count in sorted(counts.items()) if value in labels}
    if fractional:
        hint = "Is this the image, in the label's place?" if len(counts) > 50 else "Save it anew as class numbers."
        report.errors.append(f"{volume.path}: label values that are no whole numbers ({_listed(fractional)}). {hint}")
    elif stray:
        hint = "Is this the image, in the label's place?" if len(counts) > 50 else _stray_hint(stray)
        classes = ", ".join(f"{value} {name}" for value, name in labels.items())
        voxels = sum(counts[value] for value in stray)
        report.errors.append(
            f"{volume.path}: label values {_listed(stray)} in {voxels} voxels, but the classes are {classes}. {hint}"
        )
    elif set(counts) == {0.0}:
        report.warnings.append(
            f"{volume.path}: a label without foreground. If it is not done yet, list it as unlabelled."
        )
    return sample.values()


def _count_values(slab: np.ndarray) -> list[tuple[float, int]]:
    if slab.dtype == np.uint8:  # the usual label file; counting is far faster than sorting
        counts = np.bincount(slab.ravel(order="K"))
        return [(float(value), int(counts[value])) for value in np.flatnonzero(counts)]
    return [(float(value), int(count)) for value, count in zip(*np.unique(slab, return_counts=True), strict=True)]


def _stray_hint(stray: list[float]) -> str:
    if stray == [255.0]:
        return "If 255 marks the structure, save it as 1."
    return 'Correct the voxels, or add the classes to "labels".'


def _listed(values: list[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:_LISTED_VALUES])
    return shown + (f", ... {len(values)} in all" if len(values) > _LISTED_VALUES else "")


def _grid_problems(volume: Volume, reference: Volume, role: str) -> list[str]:
    """Where ``volume`` does not lie on the grid of ``reference``; empty when it does."""
    if volume.shape != reference.shape:
        return [
            f"{volume.path}: shape {volume.shape}, but its {role} has {reference.shape} ({reference.path}). "
            "Pair the right files, or resample it onto that grid."
        ]
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.asarray(volume.shape) - 1
    gap = np.linalg.norm(((volume.affine - reference.affine) @ corners.T)[:3], axis=0).max()
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
