# SPDX-License-Identifier: Apache-2.0
"""``dualseg prepare``: a public data set, from its release to NIfTI files."""

# No postponed annotations here: Fire shows them as they are.

from rich.console import Console

from ..data.releases.decathlon import PREFIX, prepare_decathlon
from ..data.releases.prepare import RELEASES, prepare_release
from ..errors import DataError
from .words import text

__all__ = ["prepare"]


def prepare(
    dataset: str,
    output: str,
    *,
    source: str | None = None,
    benchmark: bool = False,
    lists: str | None = None,
) -> None:
    """Turn a public release into NIfTI files; cases that are there already are kept, so an interrupted call continues.

    Scans stay whole, their intensities untouched. With --benchmark they are prepared as for published figures, which
    crop the scans of the left atrium and the pancreas around the ground truth, test scans too. That is an oracle: a new
    scan cannot be prepared like this. Use it to compare with such figures, and for nothing else.

    Example: dualseg prepare decathlon:Task04 data

    Example: dualseg prepare acdc data/acdc --source ACDC/database

    Args:
        dataset: decathlon:Task01 to decathlon:Task10, which are downloaded, or one that you have downloaded, which is
            left_atrium (2018 Atrial Segmentation Challenge, CASE/lgemri.nrrd and CASE/laendo.nrrd), pancreas (NIH
            Pancreas-CT, PANCREAS_0001/.../*.dcm and label0001.nii.gz), brats2019 (CASE/CASE_flair.nii.gz and
            CASE/CASE_seg.nii.gz) or acdc (patient001/Info.cfg, patient001_frame01.nii.gz and
            patient001_frame01_gt.nii.gz).
        output: folder to write to.
        source: folder of the unpacked release, the cases at any depth; for the Decathlon the archive, where it has been
            downloaded already.
        benchmark: prepare as the semi-supervised benchmark does.
        lists: folder of the benchmark's train.list, test.list (and val.list); default is the source. With them its
            splits are written, e.g. datalist_8.json with 8 labelled cases.
    """
    dataset, output, source, lists = str(dataset), str(output), text(source), text(lists)
    console = Console()
    if dataset.startswith(PREFIX):
        if benchmark or lists:
            raise DataError(f"{dataset}: has no benchmark preparation and no lists. Leave out --benchmark and --lists.")
        folder, datalists, names = prepare_decathlon(dataset.removeprefix(PREFIX), output, source), [], ""
    elif source is None:
        raise DataError(f"{dataset}: must be downloaded by you, under its terms. Name its folder with --source.")
    else:
        folder, datalists = output, prepare_release(dataset, source, output, benchmark, lists)
        names = f' --names "{",".join(RELEASES[dataset].classes)}"'
    console.print(f"prepared: {folder}", highlight=False, soft_wrap=True)
    for path in datalists:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if not datalists:
        console.print(f"next: dualseg split {folder} --labeled N --test N{names}", highlight=False, soft_wrap=True)
