# SPDX-License-Identifier: Apache-2.0
"""Which scans of a prediction are too large for the machine, and their way through it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, SaveImaged
from nibabel.orientations import axcodes2ornt
from torch import nn

from ...data.datalist.check import CaseReport
from ...data.transforms.field_of_view import field_of_view_scale
from ...errors import DataError
from ..largest_parts import KeepLargestPartd
from ..usable import UsableScans
from .segment import segment_by_slabs

__all__ = ["LargeScans"]

BYTES_A_CLASS = 12
BYTES_OF_IMAGE = 40
"""What MONAI's way holds of a voxel: scores, copies and the sum of weights, by class; the image and its copies."""
SHARE = 0.6
"""Of the memory that is free now."""

logger = logging.getLogger(__name__)


class LargeScans:
    """Sorts scans into those that fit the memory and those that are streamed, and segments the latter (ours).

    Streamed results are those of the ordinary way, but for maps of uncertainty and mirrored views, which they lack.

    Args:
        usable: the scans.
        classes: number of classes.
        spacing: of the networks' grid, in mm.
        memory_gib: how much a scan may take; None: 60 % of what is free.
        regions: class numbers of each region, by its name; default: no regions.
        field_of_view: length in mm that the longer side of a slice counts as; None or 0: voxels are as large as the
            file says.
        center_crop: middle that is looked at, in mm along each axis; None or 0: whole scans. A scan is sorted by what
            all of it would take.

    Attributes:
        small: scans for the ordinary way.
        large: the others.
    """

    def __init__(
        self,
        usable: UsableScans,
        classes: int,
        spacing: Sequence[float],
        memory_gib: float | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
        field_of_view: float | None = None,
        center_crop: Sequence[float | None] | None = None,
    ) -> None:
        limit = SHARE * psutil.virtual_memory().available if memory_gib is None else memory_gib * 2**30
        if len(spacing) == 2:  # an image has few pixels
            limit = float("inf")
        self.spacing = spacing
        self.regions = regions
        self.field_of_view = field_of_view
        self.center_crop = center_crop
        sizes = [_bytes(report, classes, spacing, field_of_view) for report in usable.reports]
        self.small = [scan for scan, size in zip(usable.scans, sizes, strict=True) if size <= limit]
        self.large = [scan for scan, size in zip(usable.scans, sizes, strict=True) if size > limit]

    def run(
        self,
        network: nn.Module,
        inferer: SlidingWindowInferer,
        intensity: Callable[[dict[str, Any]], dict[str, Any]],
        postprocessing: Compose,
        handlers: Sequence[Any],
        device: torch.device | str = "cpu",
    ) -> None:
        """Segment the large scans, one after the other; where there is none, do nothing.

        Args:
            network: an ensemble with ``members``.
            inferer: the sliding window.
            intensity: transform of the image's intensities.
            postprocessing: of the ordinary way; of it what cleans and saves class maps is used.
            handlers: of the ordinary way, which load the weights and list the results. They find ``pred`` [1, X, Y, Z],
                ``agreement`` and ``entropy`` of each scan in the engine's output.
            device: of the network.

        Raises:
            DataError: when one cannot be segmented.
        """
        if not self.large:
            return
        steps = [step for step in postprocessing.transforms if isinstance(step, KeepLargestPartd | SaveImaged)]

        def segment(engine: Engine, scan: Mapping[str, Any]) -> list[dict[str, Any]]:
            network.to(device).eval()
            files = _files(scan)
            logger.info("%s: large, so streamed; mirrored views and maps of uncertainty are left out", files[0])
            try:
                found = segment_by_slabs(
                    files,
                    network,
                    inferer,
                    intensity,
                    self.spacing,
                    device,
                    tick=_progress,
                    regions=self.regions,
                    field_of_view=self.field_of_view,
                    center_crop=self.center_crop,
                )
            except DataError as error:
                raise DataError([f"{files[0]}: {problem}" for problem in error.problems]) from error
            meta = {"filename_or_obj": files[0]}
            classes = torch.from_numpy(np.ascontiguousarray(found.classes))[None]
            item = {"pred": MetaTensor(classes, affine=torch.from_numpy(found.affine), meta=meta)}
            for step in steps:
                item = step(item)
            image = MetaTensor(torch.empty(0), meta=meta)  # only its name is still of use
            return [{**item, "image": image, "agreement": found.agreement, "entropy": found.entropy}]

        engine = Engine(segment)
        for handler in handlers:
            handler.attach(engine)
        engine.run(self.large)


def _files(scan: Mapping[str, Any]) -> list[str]:
    image = scan["image"]
    return [os.fspath(image)] if isinstance(image, str | Path) else list(image)


def _bytes(report: CaseReport, classes: int, spacing: Sequence[float], field_of_view: float | None) -> float:
    """About how much memory the ordinary way takes for a scan."""
    own = float(np.prod(report.shape, dtype=float))
    seen = np.array(report.spacing[: len(spacing)])
    if field_of_view and len(spacing) == 3:
        along = [spacing[int(axis)] for axis in axcodes2ornt(tuple(report.orientation))[:, 0]]  # the file's axes
        seen *= field_of_view_scale(report.shape, seen.tolist(), field_of_view, along)
    finer = float(np.prod(np.divide(seen, spacing)))
    return own * max(1.0, finer) * (BYTES_A_CLASS * classes + BYTES_OF_IMAGE * report.channels)


def _progress(done: int, of: int) -> None:
    if done == of or done % max(1, of // 10) < 1:
        logger.info("%d of %d windows", done, of)
