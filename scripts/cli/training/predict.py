# SPDX-License-Identifier: Apache-2.0
"""``dualseg predict``: segment scans with a trained model."""

# No postponed annotations here: Fire shows them as they are.

from collections.abc import Sequence
from pathlib import Path

from ...certainty import learnt_certainty
from ...errors import DataError
from ...inference import FORMATS
from ...runs.run import Run
from ..words import words
from .bundle_command import parse_settings, run_bundle
from .find_model import newest_run, prediction_configs

__all__ = ["predict"]


def predict(
    source: str,
    output: str,
    *,
    model: str | None = None,
    runs: str = "runs",
    flips: Sequence[int] = (),
    largest: str | Sequence[int] | None = None,
    uncertainty: bool = False,
    regions: bool = False,
    format: str = "nifti",
    set: Sequence[str] = (),
) -> int:
    """Segment a scan or a folder of scans; results are on each scan's own grid.

    review.csv lists them with a predicted Dice, those to look at first at its top.
    A scan that cannot be used is named, the others are segmented, and the exit code is 3.

    Example: dualseg predict scans predictions --model runs/scans_mean_teacher_copy_paste_seed0

    Args:
        source: a scan, or a folder of scans or of DICOM series.
        output: folder for the results, NAME_seg.nii.gz; of PNG, TIFF and JPEG NAME_seg.png.
        model: a run's folder, that of all folds, a run's model.pt, a folder for the Hub, or a shipped one, left_atrium
            or hippocampus; several runs by commas are averaged; default: the newest run.
        runs: folder of the runs, to find the newest one.
        flips: axes to mirror, such as 0,1: the mean over all mirrored views is taken. Those that the training mirrored.
        largest: numbers of the classes of which only the largest connected part is kept, such as 1,2, or none; default:
            those that are one piece in the labels that the model learnt from.
        uncertainty: also write NAME_entropy.nii.gz, with the temperature that held-back labels gave, and
            NAME_disagreement.nii.gz.
        regions: also write a mask of each region, REGION/NAME_seg.nii.gz, for a model of regions that overlap.
        format: nifti (for PNG, TIFF and JPEG that is PNG); dicom, NAME_seg.dcm (DICOM SEG) for DICOM series; or nrrd,
            NAME.seg.nrrd for 3D Slicer.
        set: KEY=VALUE, any value of configs/inference.json; may be given several times.
    """
    settings = parse_settings(set)
    if format not in FORMATS:
        raise DataError(f"--format {format}: must be one of {', '.join(FORMATS)}.")
    scans, target = Path(str(source)).absolute(), Path(str(output)).absolute()
    if not scans.exists():
        raise DataError(f"{source}: no such file or folder. Name a scan, or a folder of scans.")
    if target == (scans if scans.is_dir() else None):
        raise DataError(f"{output}: is the folder of the scans. Name another one for the results.")
    configs, weights = prediction_configs(words(model) or [str(newest_run(str(runs), folds=True).folder)])
    options = {"dataset_dir": scans, "output_dir": target, "ckpt_path": weights[0], "skip_unusable": True}
    options["further_weights"] = [str(path) for path in weights[1:]] or None
    options |= {"mirrored_axes": _numbers("flips", flips), "largest_component": _largest(largest, weights)}
    options |= {"uncertainty": uncertainty or None, "review": True, "region_masks": regions or None}
    options["format"] = None if format == "nifti" else format
    if uncertainty and (calibration := learnt_certainty(Run(weights[0].parent)).get("calibration")):
        options["temperature"] = calibration["temperature"]
    return run_bundle(
        configs, options | settings, go_on="The results so far are complete; the same command makes all of them."
    )


def _largest(given: str | int | Sequence[int] | None, weights: Sequence[Path]) -> list[int] | None:
    """What was asked for; else of several models what all of them have learnt, of one None: what its config says."""
    if given == "none":
        return []
    if given is not None:
        return _numbers("largest", given)
    learnt = [set(Run(path.parent).largest_parts()) for path in weights]
    return sorted(set.intersection(*learnt)) if len(learnt) > 1 else None


def _numbers(option: str, given: int | Sequence[int]) -> list[int] | None:
    """Fire makes a number of ``0`` and a tuple of ``0,1``."""
    numbers = [given] if isinstance(given, int | str) else list(given)
    if any(not isinstance(number, int) or isinstance(number, bool) or number < 0 for number in numbers):
        raise DataError(f"--{option} {given}: must be whole numbers from 0 on, by commas, such as --{option} 0,1.")
    return numbers or None
