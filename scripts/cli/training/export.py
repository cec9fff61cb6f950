# SPDX-License-Identifier: Apache-2.0
"""``dualseg export``: a trained model for other programs."""

# No postponed annotations here: Fire shows them as they are.

from collections.abc import Sequence
from pathlib import Path

from ...bundle_files import program_config
from ...export import FORMATS
from ...runs.run import Run
from ..words import text, words
from .bundle_command import run_bundle
from .find_model import newest_run, prediction_configs

__all__ = ["export"]


def export(
    model: str | None = None,
    *,
    output: str | None = None,
    formats: Sequence[str] = tuple(FORMATS),
    hub: str | None = None,
    runs: str = "runs",
) -> int:
    """Write a model as TorchScript and ONNX, or with --hub as a folder for the Hugging Face Hub.

    Both files take images of any batch and size, and hold what the images have to be. The folder has a model card, a
    config without code and safetensors; "dualseg predict --model DIR" uses it.

    Example: dualseg export runs/scans_mean_teacher_copy_paste_seed0

    Args:
        model: a run's folder, that of all folds, a run's model.pt, a folder for the Hub, or a shipped one, left_atrium
            or hippocampus; several runs by commas are averaged; default: the newest run.
        output: folder for model.ts and model.onnx; default: export in the run's folder.
        formats: torchscript, onnx, or both by commas.
        hub: folder to make for the Hub, instead of the files.
        runs: folder of the runs, to find the newest one.
    """
    configs, weights = prediction_configs(words(model) or [str(newest_run(str(runs), folds=True).folder)])
    target = Path(text(output) or Run(weights[0].parent).export_folder).absolute()
    options = {
        "ckpt_path": weights[0],
        "further_weights": [str(path) for path in weights[1:]] or None,
        "output_dir": target if hub is None else None,
        "formats": None if hub is not None else words(formats),
        "hub": None if hub is None else Path(str(hub)).absolute(),
    }
    return run_bundle([*configs, program_config("export")], options, go_on="To start again, give the same command.")
