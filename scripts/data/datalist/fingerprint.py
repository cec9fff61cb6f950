# SPDX-License-Identifier: Apache-2.0
"""What a config needs to know about a data set, from what its check has found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import axcodes2ornt

from ...errors import DataError
from ...ranks import is_main_process
from .check import CaseReport, DataReport

HOUNSFIELD_AIR = -500.0
"""Only CT has a dark end far below zero: air is at -1000 HU."""
DOWNSAMPLINGS = 4
"""Of both networks, below the stem."""
FEWEST_SLICES = 4
"""What is left of a median scan along an axis with thick slices, at the networks' lowest level."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """Grid and intensities of a data set's training scans, labelled and unlabelled.

    Attributes:
        channels: number of channels.
        spacing: median voxel size in mm along R, A, S; of 2D images along both axes as they are stored.
        extent: median size of a scan in mm, likewise.
        intensity: for each channel what :class:`NormalizeByModalityd` takes: ``{"modality": "other"}``, or for CT also
            ``low``, ``high``, ``mean``, ``deviation`` of the labelled structures (of the whole scans where no voxel is
            labelled).
    """

    channels: int
    spacing: tuple[float, ...]
    extent: tuple[float, ...]
    intensity: list[dict[str, Any]]

    def spacing_for(self, voxels: int | None = None) -> list[float]:
        """Voxel size to work at, in mm along R, A, S.

        Args:
            voxels: how many a median scan may have at most. Where it has more, the finest axes are coarsened first, and
                all alike once they are equal. Default: no limit, which gives the median spacing.

        Source: ours; nnU-Net (Isensee et al., Nature Methods 2021) plans its low resolution in the same order.
        """
        if voxels is None or np.prod(np.divide(self.extent, self.spacing)) <= voxels:
            return [round(length, 4) for length in self.spacing]
        fine, coarse = min(self.spacing), max(self.extent)
        for _ in range(50):  # bisection: the finest allowed voxel, to a part in 2**50 of the extent
            middle = (fine + coarse) / 2
            if np.prod(np.divide(self.extent, np.maximum(self.spacing, middle))) > voxels:
                fine = middle
            else:
                coarse = middle
        return [round(float(max(length, coarse)), 4) for length in self.spacing]

    def stem_stride(self, spacing: Sequence[float]) -> int | list[int]:
        """By how much the networks' stem halves at once: 2, or 1 and 2 for each axis where slices are thick.

        Args:
            spacing: voxel size to work at, in mm.

        Returns:
            The networks' ``stem_stride``.

        Source: as :meth:`strides`.
        """
        return _halved(*self._axes(spacing))

    def strides(self, spacing: Sequence[float], stem_stride: int | Sequence[int]) -> int | list[int | list[int]]:
        """How the networks' four downsamplings halve: 2, or an entry for each where slices are thick.

        An axis waits until the voxels of the finest one are more than half as large as its own, so that what is mixed
        lies equally far apart; and an axis that had to wait keeps at least ``FEWEST_SLICES`` in a median scan.

        Args:
            spacing: voxel size to work at, in mm.
            stem_stride: 1, 2, or one for each axis: what the stem has halved before.

        Returns:
            The networks' ``strides``.

        Example:
            >>> found = Fingerprint(1, (1.5, 1.5, 10.0), (350.0, 350.0, 100.0), [])
            >>> found.strides(found.spacing, 1)
            [[2, 2, 1], [2, 2, 1], 2, [2, 2, 1]]

        Source: nnU-Net plans its poolings by the same factor of two (Isensee et al., Nature Methods 2021); the number
        of slices that is kept is ours.
        """
        lengths, size, thick = self._axes(spacing)
        halved, levels = stem_stride, []
        for _ in range(DOWNSAMPLINGS):
            lengths, size = lengths * halved, size / halved
            halved = _halved(lengths, size, thick)
            levels.append(halved)
        return 2 if levels == [2] * DOWNSAMPLINGS else levels

    def _axes(self, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each axis: its voxels' length, how many of them a median scan has, and whether its slices are thick."""
        lengths = np.asarray(spacing, dtype=float)
        return lengths, np.divide(self.extent, lengths), lengths >= 2 * lengths.min()

    def patch_size(self, spacing: Sequence[float], multiple: int | Sequence[int], voxels: int) -> list[int]:
        """Voxels of a patch along R, A, S: the nearest to a median scan that the networks and the memory can take.

        Args:
            spacing: voxel size to work at, in mm.
            multiple: each length is a multiple of this number, the networks' ``size_multiple``, or one for each axis.
            voxels: how many the patch may have at most; one of ``multiple`` along each axis is always allowed.

        Source: ours; as in nnU-Net, the axis that covers most of the scan is shortened first.
        """
        size = np.divide(self.extent, spacing)
        step = np.broadcast_to(multiple, size.shape)
        patch = np.maximum(1, np.rint(size / step).astype(int))
        while (patch * step).prod() > voxels and patch.max() > 1:
            patch[np.argmax(np.where(patch > 1, patch * step / size, 0))] -= 1
        return [int(length) for length in patch * step]


def _halved(lengths: np.ndarray, size: np.ndarray, thick: np.ndarray) -> int | list[int]:
    """2 along the axes that are halved next, 1 along those that wait; 2 where none waits."""
    waits = thick & ((lengths >= 2 * lengths.min()) | (size < 2 * FEWEST_SLICES))
    return [1 if wait else 2 for wait in waits] if waits.any() else 2


def fingerprint(report: DataReport, modality: str | Sequence[str] | None = None) -> Fingerprint:
    """Sum up the training scans (labelled and unlabelled) of a checked datalist; validation and test are not looked at.

    Args:
        report: from :func:`check_data`.
        modality: of all channels, or of each: ``CT``, or anything else, e.g. ``MRI``. Default: CT where the darkest 0.5
            percent of the scans lie below -500 (the median over scans), as only Hounsfield units do.

    Raises:
        DataError: when the modalities are not as many as the channels, or no scan is there to train on.

    Example:
        >>> found = fingerprint(check_data(load_datalist("data/phantom/datalist.json")))
        >>> found.spacing_for(), found.patch_size(found.spacing, multiple=32, voxels=2**17)
        ([1.0, 1.0, 1.0], [32, 64, 64])

    Source: ours.
    """
    cases = [case for case in report.cases if case.section in ("training", "unlabeled") and case.channels]
    if not cases:
        raise DataError('No scan to train on: list cases with image and label as "training" in the datalist.')
    grids = [_grid(case, report.spatial_dims) for case in cases]
    spacing = np.median([spacing for spacing, _ in grids], axis=0)
    extent = np.median([np.multiply(spacing, shape) for spacing, shape in grids], axis=0)
    channels = cases[0].channels
    named = [modality] * channels if modality is None or isinstance(modality, str) else list(modality)
    if len(named) != channels:
        raise DataError(
            f"modality {modality!r}: the scans have {channels} channels. Name one for each, CT or anything else, in "
            "the datalist or as --modality."
        )
    intensity = [_channel_intensity(cases, channel, name) for channel, name in enumerate(named)]
    found = Fingerprint(channels, _floats(spacing), _floats(extent), intensity)
    logger.log(
        logging.INFO if is_main_process() else logging.DEBUG,
        "%d training scans: median spacing %s mm, median extent %s mm, intensities: %s",
        len(cases),
        " x ".join(f"{length:.3g}" for length in found.spacing),
        " x ".join(f"{length:.3g}" for length in found.extent),
        ", ".join("CT" if entry["modality"] == "CT" else "other (each scan normalised alone)" for entry in intensity),
    )
    return found


def _grid(case: CaseReport, spatial_dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Spacing and shape of a scan along R, A, S, in whatever order its file stores the axes; of 2D images as stored."""
    if spatial_dims == 2:
        return np.array(case.spacing[:2]), np.array(case.shape[:2], dtype=float)
    axes = axcodes2ornt(tuple(case.orientation))[:, 0].astype(int)
    spacing, shape = np.empty(3), np.empty(3)
    spacing[axes], shape[axes] = case.spacing, case.shape
    return spacing, shape


def _channel_intensity(cases: Sequence[CaseReport], channel: int, modality: str | None) -> dict[str, Any]:
    whole = [case.intensity[channel] for case in cases]
    if modality is None:
        modality = "CT" if np.median([found["low"] for found in whole]) < HOUNSFIELD_AIR else "other"
    if modality.upper() != "CT":
        return {"modality": "other"}
    inside = [case.foreground[channel] for case in cases if case.foreground]
    found = {name: [entry[name] for entry in inside or whole] for name in ("low", "high", "mean", "deviation")}
    mean = float(np.mean(found["mean"]))
    variance = np.mean(np.square(found["deviation"]) + np.square(np.subtract(found["mean"], mean)))
    return {
        "modality": "CT",
        "low": float(np.median(found["low"])),
        "high": float(np.median(found["high"])),
        "mean": mean,
        "deviation": max(float(np.sqrt(variance)), 1.0),
    }


def _floats(lengths: np.ndarray) -> tuple[float, ...]:
    return tuple(float(length) for length in lengths)
