# SPDX-License-Identifier: Apache-2.0
"""Arguments have one name in all losses; the old names work for one version, with a warning."""

import inspect

import pytest
import torch

from scripts import losses
from scripts.losses import (
    DisagreementRectificationLoss,
    EnsembleVotingPseudoLabels,
    ERDALoss,
    GuidedContrastiveLoss,
    PairUncertaintyWeight,
    PrototypeContrastiveLoss,
    RectifiedPseudoSupervisionLoss,
    TemporalAgreementWeight,
    VoxelContrastiveLoss,
)

from .test_reuse import CHANNELS, draw

KNOWN = {
    *("input", "inputs", "other", "teacher", "features", "other_features", "teacher_features", "labels", "mask"),
    *("reliable", "size", "progress", "views", "pair_input", "pair_teacher", "fast", "slow", "mixed", "weight"),
    *("classes", "sources"),
}
# how to make it, its inputs by their old names, and those inputs in order
OLD_NAMES = {
    "rectification": (lambda: DisagreementRectificationLoss(0.3), {"input": "a", "other": "b", "target": "y"}),
    "erda": (lambda: ERDALoss(), {"input": "a", "pseudo": "b"}),
    "contrastive": (
        lambda: PrototypeContrastiveLoss(3, CHANNELS),
        {"features": "f", "logits": "a", "labels": "y", "mask": "m"},
    ),
    "voxel_contrastive": (lambda: VoxelContrastiveLoss(), {"input": "f", "other": "g", "labels": "y"}),
    "guided_contrastive": (
        lambda: GuidedContrastiveLoss(3, CHANNELS),
        {"input": "f", "other": "g", "logits": "a", "mask": "m"},
    ),
    "pair_weight": (
        lambda: PairUncertaintyWeight(),
        {"student": "a", "teacher": "b", "pair_student": "b", "pair_teacher": "a"},
    ),
    "temporal_weight": (lambda: TemporalAgreementWeight(), {"student": "a", "fast": "b", "slow": "a"}),
}


@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_names_of_inputs_still_work(name):
    make, names = OLD_NAMES[name]
    inputs = draw()
    torch.manual_seed(0)
    expected = make()(*(inputs[k] for k in names.values()))
    torch.manual_seed(0)
    with pytest.warns(DeprecationWarning, match="is now"):
        got = make()(**{old: inputs[k] for old, k in names.items()})
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_old_names_of_options_and_sequences_still_work():
    with pytest.warns(DeprecationWarning, match="'kl_weight' is now 'gamma'"):
        assert RectifiedPseudoSupervisionLoss(kl_weight=0.3).per_view.gamma == 0.3
    with pytest.warns(DeprecationWarning, match="'confidence' is now 'threshold'"):
        assert GuidedContrastiveLoss(2, 4, confidence=0.4).threshold == 0.4
    a = draw()["a"]
    with pytest.warns(DeprecationWarning, match="'logits' is now 'inputs'"):
        assert EnsembleVotingPseudoLabels(2)(logits=[a, a])[1].all()


def test_an_argument_by_both_names_is_an_error():
    a = draw()["a"]
    with pytest.raises(TypeError, match="'other'.*'pseudo'"):
        ERDALoss()(a, pseudo=a, other=a)


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_new_names_warn_of_nothing():
    inputs = draw()
    ERDALoss()(input=inputs["a"], other=inputs["b"])
    VoxelContrastiveLoss()(features=inputs["f"], other_features=inputs["g"], labels=inputs["y"])


def test_inputs_have_the_names_of_the_vocabulary():
    for name in losses.__all__:
        forward = getattr(getattr(losses, name), "forward", None)
        if forward is not None and forward is not torch.nn.Module.forward and name != "RunningMean":
            assert set(inspect.signature(forward).parameters) - {"self"} <= KNOWN, name
