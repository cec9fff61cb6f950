# SPDX-License-Identifier: Apache-2.0
"""Whole scans that a model has labelled, beside those that a person has: in a datalist, and in a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .datalist.read import image_files
from .incomplete_labels import IGNORED_NAME, PSEUDO
from .io.formats.names import prediction_name
from .io.label_values import VALUES

__all__ = ["ignored_value", "repeat_labelled", "with_pseudo_labels"]


def ignored_value(datalist: Mapping[str, Any]) -> int:
    """The label value of voxels to leave out: the datalist's; else 255, or the next below that is no class (ours).

    Args:
        datalist: from :func:`~.datalist.read.load_datalist`.
    """
    if datalist[IGNORED_NAME] is not None:
        return datalist[IGNORED_NAME]
    taken = {*(datalist[VALUES] or []), *range(len(datalist["labels"]))}
    return next(value for value in range(255, 0, -1) if value not in taken)


def with_pseudo_labels(datalist: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The datalist with unlabelled scans among the training scans, marked as labelled by a model (ours).

    Args:
        datalist: from :func:`~.datalist.read.load_datalist`.
        labels: {name of the scan's prediction: label file}; in it voxels of :func:`ignored_value` are left out. Other
            unlabelled scans stay unlabelled.

    Returns:
        A datalist for :func:`~.datalist.write.write_datalist`.
    """
    names = [prediction_name(image_files(case)[0]) for case in datalist["unlabeled"]]
    cases = list(zip(names, datalist["unlabeled"], strict=True))
    taken = [{**case, "label": labels[name], PSEUDO: True} for name, case in cases if name in labels]
    return {
        **datalist,
        "labels": {str(value): name for value, name in datalist["labels"].items()},
        IGNORED_NAME: ignored_value(datalist),
        "training": [*datalist["training"], *taken],
        "unlabeled": [case for name, case in cases if name not in labels],
    }


def repeat_labelled(datalist: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The training scans, those that a person has labelled so often that about half of all crops are theirs.

    As the few true labels are repeated in ST++ (Yang et al., CVPR 2022, arXiv 2106.05095).

    Args:
        datalist: from :func:`~.datalist.read.load_datalist`.
    """
    cases = [(case.get(PSEUDO, False), {k: v for k, v in case.items() if k != PSEUDO}) for case in datalist["training"]]
    labelled, pseudo = ([case for by_model, case in cases if by_model is kind] for kind in (False, True))
    return labelled * max(1, round(len(pseudo) / max(1, len(labelled)))) + pseudo
