# SPDX-License-Identifier: Apache-2.0
"""The rows of the tables in docs/ablation.md: which methods, by which configs, and which of them in which table."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CELLS", "CHAIN", "COMPARED", "METHODS", "ROWS", "Row"]


class Row(NamedTuple):
    """One row.

    Attributes:
        title: what it is, or adds.
        configs: layered over the data set and the budget.
        always: whether it is run with every seed.
        after: the row whose run it starts from.
        program: what trains it where that is not the bundle: ``selftrain`` or ``nnunet``.
    """

    title: str
    configs: tuple[str, ...] = ()
    always: bool = False
    after: str | None = None
    program: str | None = None


def _method(name: str, title: str, always: bool = False, after: str | None = None) -> Row:
    return Row(title, (f"configs/methods/{name}.json",), always, after)


def _ablation(name: str, title: str, always: bool = False) -> Row:
    return Row(title, (f"benchmarks/ablation/{name}.json",), always)


# Of version 0.x: the paper's terms one after the other, all from random weights.
CHAIN = {
    "supervised": _method("supervised", "supervised only", True),
    "rectification": _ablation("rectification", "+ disagreement rectification"),
    "cross_pseudo": _ablation("cross_pseudo", "+ KL-weighted cross pseudo supervision"),
    "entropy_filtered": _ablation("entropy_filtered", "+ entropy-filtered supervision"),
    "cosine": _ablation("cosine", "+ cosine consistency"),
    "paper": _method("paper", "+ prototype contrastive term", True),
    "average": _ablation("average", "paper, moving average of the weights"),
    "copy_paste": _ablation("copy_paste", "paper, copy-paste"),
    "dual_network_copy_paste": _method("dual_network_copy_paste", "paper, copy-paste and moving average", True),
    "mean_teacher_copy_paste": _method("mean_teacher_copy_paste", "copy-paste and moving average alone", True),
    "copy_paste_consistency": _ablation(
        "copy_paste_consistency", "copy-paste and moving average, + cross consistency enhancement", True
    ),
    "copy_paste_contrastive": _ablation(
        "copy_paste_contrastive", "copy-paste and moving average, + prototype contrastive term", True
    ),
    "as_released": _method("as_released", "the loss of the code released with the paper", True),
    "cps": _method("cps", "cross pseudo supervision", True),
    "mean_teacher": _method("mean_teacher", "mean teacher"),
    "uamt": _method("uamt", "uncertainty-aware mean teacher"),
    "mcf": _method("mcf", "mutual correction framework"),
    "bcp": _method("bcp", "bidirectional copy-paste"),
}

# Every method with the default's number of steps; without unlabelled images the default is the control.
METHODS = {
    "control": _method("control", "the default without unlabelled scans", True),
    "mean_teacher_copy_paste": _method("mean_teacher_copy_paste", "the default", True),
    "without_rectification": _ablation("without_rectification", "the default without rectification"),
    "without_labeled_copy_paste": _ablation(
        "without_labeled_copy_paste", "the default whose supervised part does not mix labelled images"
    ),
    "self_training": Row(
        "self-training on whole scans, from the default", after="mean_teacher_copy_paste", program="selftrain"
    ),
    "protected": _method("protected", "the paper's terms with every protection"),
    "cross_teaching": _method("cross_teaching", "the default, averages teach across"),
    "paper": _method("paper", "the paper's wiring", True),
    **{name: CHAIN[name] for name in ("as_released", "cps", "mean_teacher", "uamt", "mcf", "bcp")},
    "rcps": _method("rcps", "rectified contrastive pseudo supervision"),
    "ssl_contrastive": _method("ssl_contrastive", "the paper's predecessor"),
    "dual_networks": _method("dual_networks", "dual networks, pseudo-labels weighted by divergence"),
    "semsim": _method("semsim", "SemSim"),
    "erda": _method("erda", "ERDA"),
    "erda_modality_agnostic": _method("erda_modality_agnostic", "ERDA with class queries"),
    "guided_contrast": _method("guided_contrast", "guided point contrast"),
    "pair_uncertainty": _method("pair_uncertainty", "UNRN"),
    "temporal_agreement": _method("temporal_agreement", "TrajSSL's temporal agreement"),
    "conflict_free": _method("conflict_free", "the default, gradients without conflict"),
    "voting": _method("voting", "votes of four, after contrastive pre-training", after="contrastive_pretraining"),
    "fixmatch": _method("fixmatch", "FixMatch"),
    "unimatch": _method("unimatch", "UniMatch"),
    "crossmatch": _method("crossmatch", "CrossMatch"),
    "ad_mt": _method("ad_mt", "AD-MT"),
    "sdcl": _method("sdcl", "SDCL"),
    "nnunet": Row("nnU-Net, the default's minutes", after="mean_teacher_copy_paste", program="nnunet"),
    "nnunet_long": Row("nnU-Net, its own schedule", program="nnunet"),
}

# Trained where a row starts from them, and no row themselves: they learn no classes.
FIRST_PHASES = {"contrastive_pretraining": _method("contrastive_pretraining", "contrastive pre-training")}

ROWS = {**CHAIN, **METHODS, **FIRST_PHASES}

CELLS = {
    "hippocampus": ("2", "4", "8", "all"),
    "left_atrium": ("4", "8", "all"),
    "acdc": ("3", "7", "all"),
}
"""How many scans (of ACDC patients) are labelled, by data set, fewest first."""

COMPARED = {"hippocampus": ("2", "8")}
"""Numbers of labels at which every method is compared with fewer steps than the recipe's."""
